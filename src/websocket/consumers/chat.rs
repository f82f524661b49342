//! Chat: JSON messages to a group, with user, prefix, history and presence.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::channels::{Event, GroupName, GroupOptions, Presence};
use crate::config::{OptionErrors, WrittenDuration};
use crate::group_pattern::GroupPattern;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::timestamp::Timestamp;
use crate::websocket::{Accept, Close, Consumer, Context, Denial, Message};

/// `consumer = "chat"`: `{"message": "hi"}` from a client reaches all members of the group as
/// `{"type": "chat.message", "message": "hi", "user": ..., "at": ...}`.
///
/// `{"type": "who"}` asks for the members; the reply is `chat.who`. The reply to an invalid message
/// is `chat.error`, and the socket stays open. With `presence` the group gets `chat.join` and
/// `chat.leave`. A message may have a `ref`, by which its sender recognises it, and that of an
/// anonymous visitor a `nickname`, which nothing vouches for: `user` is then null.
#[derive(Debug)]
pub struct Chat {
    options: Options,
    group: Option<GroupName>,
}

/// The options of `chat`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The group, such as `chat_{room}`.
    group: GroupPattern,
    /// Put before each message.
    #[serde(default)]
    prefix: String,
    /// How many of the newest events a new member gets.
    #[serde(default)]
    history: usize,
    /// How long they are kept.
    #[serde(default = "super::an_hour")]
    history_expiry: WrittenDuration,
    /// Whether a client that reconnects with `?since=` gets the events that it missed.
    #[serde(default)]
    recover: bool,
    /// Whether the group is notified when members join and leave.
    #[serde(default)]
    presence: bool,
    /// The most characters of one message.
    #[serde(default = "a_page")]
    max_characters: usize,
}

fn a_page() -> usize {
    4000
}

/// The most characters of a nickname.
const NICKNAME_MAX: usize = 32;
/// How many combining marks one character of a nickname may have. More of them grow over the lines
/// above and below; scripts that use them have up to three.
const MARKS_MAX: usize = 3;

/// The most bytes of a `ref`.
const REF_MAX: usize = 64;

/// A message from a client.
#[derive(Deserialize)]
struct ClientMessage<'a> {
    #[serde(default, borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    nickname: Option<Cow<'a, str>>,
    #[serde(default, borrow, rename = "ref")]
    reference: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct ChatMessage<'a> {
    message: &'a str,
    user: Option<&'a str>,
    at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    nickname: Option<&'a str>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Reply<'a> {
    #[serde(rename = "chat.who")]
    Who {
        users: Vec<Option<&'a str>>,
        members: usize,
    },
    #[serde(rename = "chat.error")]
    Error { code: &'a str, message: &'a str },
}

impl Consumer for Chat {
    type Options = Options;

    fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            group: None,
        }
    }

    fn mount(options: Options, route: &RouteContext<'_>) -> Result<Options, OptionErrors> {
        let mut errors = OptionErrors::default();
        errors.extend(options.group.check("group", &route.params));
        errors.extend(super::check_recovery(options.recover, options.history));
        errors.into_result(options)
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        let group = super::group(&self.options.group, scope)?;
        self.group = Some(group.clone());
        Ok(Accept::default().with_group(group, self.group_options()))
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        cx.group_add_frames(group, self.group_options()).await?;
        Ok(())
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        if let Some(event) = self.answer(cx, &message).await?
            && let Some(group) = &self.group
        {
            cx.group_send(group, event).await?;
        }
        Ok(())
    }
}

impl Chat {
    fn group_options(&self) -> GroupOptions {
        let presence = match self.options.presence {
            true => Presence::Announced,
            false => Presence::Tracked,
        };
        GroupOptions {
            history: self.options.history,
            history_expiry: self.options.history_expiry.0,
            recover: self.options.recover,
            presence,
        }
    }

    /// Handles messages that concern only the client; returns the event for the group.
    async fn answer(
        &self,
        cx: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Event>, Close> {
        let Some(text) = message.as_text() else {
            return error(cx, "invalid_message", "expected text, found binary data");
        };
        let said: ClientMessage<'_> = match serde_json::from_str(text) {
            Ok(said) => said,
            Err(problem) if problem.is_data() => {
                return error(
                    cx,
                    "invalid_message",
                    "expected {\"message\": \"...\"} with a text",
                );
            }
            Err(_) => {
                return error(
                    cx,
                    "invalid_json",
                    "expected JSON such as {\"message\": \"hi\"}",
                );
            }
        };
        match (said.kind.as_deref(), &said.message) {
            (Some("who"), None) => Box::pin(self.tell_who(cx)).await.map(|()| None),
            (None | Some("message" | "chat.message"), Some(message)) => {
                self.event(cx, message, &said)
            }
            _ => error(
                cx,
                "invalid_message",
                "expected {\"message\": \"...\"} or {\"type\": \"who\"}",
            ),
        }
    }

    /// Returns the event of a message, or sends the client an error.
    fn event(
        &self,
        cx: &mut Context<'_>,
        message: &str,
        said: &ClientMessage<'_>,
    ) -> Result<Option<Event>, Close> {
        if message.is_empty() {
            return error(
                cx,
                "invalid_message",
                "expected a message, found an empty one",
            );
        }
        if message.chars().count() > self.options.max_characters {
            return error(
                cx,
                "too_long",
                &format!(
                    "expected at most {} characters",
                    self.options.max_characters
                ),
            );
        }
        let reference = said.reference.as_deref();
        if reference.is_some_and(|reference| reference.len() > REF_MAX) {
            let sentence = format!("expected a ref of at most {REF_MAX} bytes");
            return error(cx, "invalid_message", &sentence);
        }
        // The name of a user is known; only an anonymous visitor may choose one.
        let is_anonymous = cx.scope().user.is_none();
        let nickname = said.nickname.as_deref().filter(|_| is_anonymous);
        if nickname.is_some_and(|nickname| !is_nickname(nickname)) {
            let sentence = format!(
                "expected a nickname of 1 to {NICKNAME_MAX} visible characters, without a space at either end"
            );
            return error(cx, "invalid_nickname", &sentence);
        }
        let message = if self.options.prefix.is_empty() {
            Cow::Borrowed(message)
        } else {
            Cow::Owned(format!("{}{message}", self.options.prefix))
        };
        let user = cx.scope().user.as_ref().map(|user| user.name.as_str());
        let event = Event::new(
            "chat.message",
            &ChatMessage {
                message: &message,
                user,
                at: Timestamp::now(),
                nickname,
                reference,
            },
        )?;
        Ok(Some(event))
    }

    async fn tell_who(&self, cx: &mut Context<'_>) -> Result<(), Close> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        let present = cx.layer().group_present(group).await;
        let names: Vec<Option<&str>> = present.users.iter().map(Option::as_deref).collect();
        cx.send_json(&Reply::Who {
            members: names.len(),
            users: names,
        })?;
        Ok(())
    }
}

/// Returns whether a text can be shown as a name on one line, without changing what is around it.
fn is_nickname(text: &str) -> bool {
    // A mark needs something that is shown before it; a text that begins with marks has none.
    let mut marks = MARKS_MAX;
    let mut is_visible = |character: char| {
        marks = if is_mark(character) { marks + 1 } else { 0 };
        !is_invisible(character) && marks <= MARKS_MAX
    };
    !text.is_empty()
        && text.trim() == text
        && text.chars().count() <= NICKNAME_MAX
        && text.chars().all(&mut is_visible)
}

/// Returns whether a character is not shown by itself. The standard library escapes what Unicode
/// calls `Grapheme_Extend`, and what has no glyph of its own.
fn is_mark(character: char) -> bool {
    !matches!(character, '"' | '\'' | '\\') && character.escape_debug().len() > 1
}

/// Returns whether a character changes the direction or the lines of a text, or is blank.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{34f}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{17b4}'
                | '\u{17b5}'
                | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{2800}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e00ff}'
                | '\u{e01f0}'..='\u{e0fff}'
        )
}

/// Sends an error to the client alone.
fn error(cx: &mut Context<'_>, code: &str, message: &str) -> Result<Option<Event>, Close> {
    cx.send_json(&Reply::Error { code, message })?;
    Ok(None)
}
