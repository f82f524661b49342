//! Executor: carries out a backend's actions on one connection.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::protocol::action::{Action, Deliver, GroupSend};
use crate::channels::{GroupLimitReached, GroupName, GroupOptions, LayerError, Start, Subscriber};
use crate::services::Services;
use crate::websocket::SocketHandle;
use crate::websocket::close::{Cause, Ending};

/// Carries out actions on one connection.
pub(super) struct Executor {
    services: Services,
    socket: Arc<SocketHandle>,
    closed: CancellationToken,
}

/// Whether the connection continues after an action.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Applied {
    Open,
    /// The action has no effect: the socket is in too many groups.
    Refused(GroupLimitReached),
    /// The action has closed the connection; later actions are dropped.
    Closed,
}

impl Executor {
    pub(super) fn new(services: Services, socket: Arc<SocketHandle>) -> Self {
        Self {
            services,
            socket,
            closed: CancellationToken::new(),
        }
    }

    /// Marks that the socket has closed: it joins no group from now on.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// Completes when the socket has closed.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Carries out one action. Fails with a sentence for the log if the protocol does not allow it
    /// now.
    pub(super) async fn apply(&self, action: Action) -> Result<Applied, String> {
        let layer = &self.services.layer;
        match action {
            Action::Send(message) => self.socket.send_message(&message),
            Action::Close { code, reason } => {
                let reason = reason.unwrap_or_default();
                self.socket
                    .end(Ending::chosen(Cause::ConsumerClose, code, reason));
                return Ok(Applied::Closed);
            }
            Action::GroupAdd { group, deliver } => {
                if let Err(reached) = self.group_add(&group, deliver).await {
                    return Ok(Applied::Refused(reached));
                }
            }
            Action::GroupDiscard { group } => {
                self.socket.leave_group(&group);
                layer.group_discard(&group, self.socket.id());
            }
            Action::GroupSend(GroupSend {
                group,
                event,
                exclude_self,
            }) => {
                let except = exclude_self.then(|| self.socket.id());
                match layer.group_send(&group, event, except).await {
                    Ok(_) => {}
                    Err(error @ LayerError::InvalidEvent { .. }) => return Err(error.to_string()),
                    // The layer counts it.
                    Err(error) => tracing::debug!(%error, "event of a backend dropped"),
                }
            }
            Action::Accept { .. } | Action::Response { .. } => {
                return Err(
                    "websocket.accept and websocket.http.response answer websocket.connect only"
                        .to_owned(),
                );
            }
        }
        Ok(Applied::Open)
    }

    async fn group_add(
        &self,
        group: &GroupName,
        deliver: Deliver,
    ) -> Result<(), GroupLimitReached> {
        self.socket.check_group(group)?;
        let layer = &self.services.layer;
        let options = GroupOptions::default();
        let _pending = layer.prepare(group, &options, self.socket.id()).await;
        // Race: the socket may close while the join is prepared. A closing socket leaves its groups
        // under this lock, after `close`. So either the check below sees that it has closed, or the
        // socket leaves this group too.
        let mut groups = self.socket.groups();
        if self.closed.is_cancelled() || groups.contains(group.as_str()) {
            return Ok(());
        }
        self.socket.join_group(&mut groups, group)?;
        let subscriber: Arc<dyn Subscriber> = match deliver {
            Deliver::Client => self.socket.clone(),
            Deliver::Backend => self.socket.mailbox().clone(),
        };
        let user = self.socket.scope().user.clone();
        let id = self.socket.id();
        layer.group_resume(group, id, &subscriber, user, options, Start::Now);
        Ok(())
    }
}
