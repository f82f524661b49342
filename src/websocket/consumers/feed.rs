//! Feed: sends the events of groups to clients that only listen.

use crate::channels::{GroupName, GroupOptions};
use crate::config::{OptionErrors, WrittenDuration};
use crate::group_pattern::GroupPattern;
use crate::routing::RouteContext;
use crate::scope::Scope;
use crate::websocket::{Accept, Close, CloseCode, Consumer, Context, Denial, Message};

/// `consumer = "feed"`: joins groups and sends their events to the client. A message from the
/// client closes the socket with 1008.
#[derive(Debug)]
pub struct Feed {
    patterns: Vec<GroupPattern>,
    options: GroupOptions,
    groups: Vec<GroupName>,
}

/// The options of `feed`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The groups, such as `["user_{user.id}", "news"]`.
    groups: Vec<GroupPattern>,
    /// How many of the newest events of each group a new member gets.
    #[serde(default)]
    history: usize,
    /// How long they are kept.
    #[serde(default = "super::an_hour")]
    history_expiry: WrittenDuration,
    /// Whether a client that reconnects with `?since=` gets the events that it missed.
    #[serde(default)]
    recover: bool,
}

impl Consumer for Feed {
    type Options = Options;

    fn new(options: &Options) -> Self {
        Self {
            patterns: options.groups.clone(),
            options: GroupOptions {
                history: options.history,
                history_expiry: options.history_expiry.0,
                recover: options.recover,
                ..GroupOptions::default()
            },
            groups: Vec::new(),
        }
    }

    fn mount(options: Options, route: &RouteContext<'_>) -> Result<Options, OptionErrors> {
        let mut errors = OptionErrors::default();
        errors.extend(super::check_recovery(options.recover, options.history));
        for (at, group) in options.groups.iter().enumerate() {
            errors.extend(group.check(&format!("groups[{at}]"), &route.params));
        }
        if options.groups.is_empty() {
            errors.error("groups", "expected at least one group, found none");
        }
        if options.recover && options.groups.len() > 1 {
            let count = options.groups.len();
            errors.error(
                "recover",
                format!("expected exactly one group to go with it, found {count}"),
            );
        }
        errors.into_result(options)
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        self.groups = std::mem::take(&mut self.patterns)
            .iter()
            .map(|pattern| super::group(pattern, scope))
            .collect::<Result<_, _>>()?;
        let groups = self.groups.iter();
        let accept = Accept {
            groups: groups.map(|group| (group.clone(), self.options)).collect(),
            ..Accept::default()
        };
        Ok(accept)
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        for group in std::mem::take(&mut self.groups) {
            cx.group_add_frames(&group, self.options).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, _cx: &mut Context<'_>, _message: Message) -> Result<(), Close> {
        Err(Close::new(
            CloseCode::POLICY,
            "this socket is for listening",
        ))
    }
}
