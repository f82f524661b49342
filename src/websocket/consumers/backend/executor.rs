//! Executor: what a backend wants to happen, done.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::action::{Action, Deliver};
use crate::channels::{GroupName, GroupOptions, Start, Subscriber};
use crate::services::Services;
use crate::websocket::SocketHandle;
use crate::websocket::close::{Cause, CloseCode, Ending};

/// Does what a backend wants with one connection.
pub(super) struct Executor {
    services: Services,
    link: Arc<SocketHandle>,
    ended: CancellationToken,
}

impl Executor {
    pub(super) fn new(services: Services, link: Arc<SocketHandle>) -> Self {
        Self {
            services,
            link,
            ended: CancellationToken::new(),
        }
    }

    /// The socket has ended: no group is joined any more.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Completes when the socket has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Does one thing; tells whether that ends the connection.
    pub(super) async fn apply(&self, action: Action) -> Result<bool, String> {
        let layer = &self.services.layer;
        match action {
            Action::Send(message) => self.link.send_message(&message),
            Action::Close { code, reason } => {
                let code = code.unwrap_or(CloseCode::NORMAL);
                let reason = reason.unwrap_or_default();
                self.link
                    .end(Ending::chosen(Cause::ConsumerClose, code, reason));
                return Ok(true);
            }
            Action::GroupAdd { group, deliver } => {
                self.group_add(group, deliver).await;
            }
            Action::GroupDiscard { group } => {
                self.link.groups().retain(|joined| *joined != group);
                layer.group_discard(&group, self.link.id());
            }
            Action::GroupSend {
                group,
                event,
                exclude_self,
            } => {
                let except = exclude_self.then(|| self.link.id());
                if let Err(error) = layer.group_send(&group, event, except).await {
                    tracing::debug!(%error, "a backend's event was dropped"); // and counted there
                }
            }
            Action::Accept { .. } | Action::Response { .. } => {
                return Err("expected websocket.accept and websocket.http.response in the answer to websocket.connect only".to_owned());
            }
        }
        Ok(false)
    }

    async fn group_add(&self, group: GroupName, deliver: Deliver) {
        let layer = &self.services.layer;
        let options = GroupOptions::default();
        let _held = layer.prepare(&group, &options, self.link.id()).await;
        // Under the lock of those who leave all groups at the end: nothing is joined behind them.
        let mut groups = self.link.groups();
        if self.ended.is_cancelled() || groups.contains(&group) {
            return;
        }
        let subscriber: Arc<dyn Subscriber> = match deliver {
            Deliver::Client => self.link.clone(),
            Deliver::Backend => self.link.mailbox().clone(),
        };
        let user = self.link.scope().user.clone();
        let id = self.link.id();
        layer.group_resume(&group, id, &subscriber, user, options, Start::Now);
        groups.push(group);
    }
}
