//! Broadcast: sends every message to all members of a group, unchanged.

use crate::channels::{Event, GroupName, GroupOptions};
use crate::config::{OptionErrors, WrittenDuration};
use crate::group_pattern::GroupPattern;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::websocket::{Accept, Close, Consumer, Context, Denial, Message};

/// `consumer = "broadcast"`: sends every message to all members of the group, unchanged.
#[derive(Debug)]
pub struct Broadcast {
    pattern: GroupPattern,
    include_sender: bool,
    options: GroupOptions,
    group: Option<GroupName>,
}

/// The options of `broadcast`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The group, such as `room_{room}`.
    group: GroupPattern,
    /// Whether the sender gets its own message back.
    #[serde(default = "yes")]
    include_sender: bool,
    /// How many of the newest messages a new member gets.
    #[serde(default)]
    history: usize,
    /// How long they are kept.
    #[serde(default = "super::an_hour")]
    history_expiry: WrittenDuration,
}

fn yes() -> bool {
    true
}

impl Consumer for Broadcast {
    type Options = Options;

    fn new(options: &Options) -> Self {
        Self {
            pattern: options.group.clone(),
            include_sender: options.include_sender,
            options: GroupOptions {
                history: options.history,
                history_expiry: options.history_expiry.0,
                ..GroupOptions::default()
            },
            group: None,
        }
    }

    fn mount(options: Options, route: &RouteContext<'_>) -> Result<Options, OptionErrors> {
        let errors = options.group.check("group", &route.params);
        let errors = OptionErrors::from_iter(errors);
        errors.into_result(options)
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        let group = super::group(&self.pattern, scope)?;
        self.group = Some(group.clone());
        Ok(Accept::default().with_group(group, self.options))
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        if let Some(group) = &self.group {
            cx.group_add_frames(group, self.options).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        let Some(group) = &self.group else {
            return Ok(());
        };
        let event = match message {
            Message::Text(text) => Event::text(text),
            Message::Binary(bytes) => Event::bytes(bytes),
        };
        if self.include_sender {
            cx.group_send(group, event).await?;
        } else {
            cx.group_send_others(group, event).await?;
        }
        Ok(())
    }
}
