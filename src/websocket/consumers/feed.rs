//! Feed: the server speaks, the client listens.

use crate::channels::{GroupName, GroupOptions};
use crate::group_pattern::GroupPattern;
use crate::scope::Scope;
use crate::websocket::{Accept, Close, CloseCode, Consumer, Context, Denial, Message};

/// `consumer = "feed"`: joins groups and shows their events to the client; a client that speaks is closed with 1008.
#[derive(Debug)]
pub struct Feed {
    patterns: Vec<GroupPattern>,
    history: usize,
    groups: Vec<GroupName>,
}

/// What `feed` takes.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The groups, such as `["user_{user.id}", "news"]`.
    groups: Vec<GroupPattern>,
    /// How many of the newest events of each group a new member gets.
    #[serde(default)]
    history: usize,
}

impl Consumer for Feed {
    type Options = Options;

    fn new(options: &Options) -> Self {
        Self {
            patterns: options.groups.clone(),
            history: options.history,
            groups: Vec::new(),
        }
    }

    fn problems(options: &Options) -> Vec<String> {
        if options.groups.is_empty() {
            vec!["groups: expected at least one group, found none".to_owned()]
        } else {
            Vec::new()
        }
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        self.groups = std::mem::take(&mut self.patterns)
            .iter()
            .map(|pattern| super::group(pattern, scope))
            .collect::<Result<_, _>>()?;
        Ok(Accept::default())
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        for group in std::mem::take(&mut self.groups) {
            cx.group_add_frames(
                &group,
                GroupOptions {
                    history: self.history,
                    ..GroupOptions::default()
                },
            );
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
