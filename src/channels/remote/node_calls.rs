//! Node calls: requests to other processes, and the replies to theirs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};

use super::queued_command::{COMMAND_BYTES, CommandKind, QueuedCommand};
use super::{Remote, reached, wire};
use crate::channels::{NodeReply, NodeRequest, RpcHandler, RpcReplies};

/// How long a process may take to reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of requests handled at once; further ones get no reply.
static HANDLING: Semaphore = Semaphore::const_new(64);

impl Remote {
    /// Sets the handler for requests of other processes. Called once.
    pub(crate) fn set_rpc_handler(&self, rpc_handler: Arc<dyn RpcHandler>) {
        let _ = self.0.rpc_handler.set(rpc_handler);
    }

    /// Sends a request to all other processes, and waits for their replies, at most a second.
    pub async fn call_all(&self, request: &NodeRequest) -> RpcReplies {
        let channel = self.0.names.nodes_channel();
        self.call(channel, 1, request, REPLY_TIMEOUT).await // this process subscribes to it too
    }

    /// Sends a request to another process, and waits for its reply. If there is no such process, no
    /// reply counts as missing.
    pub async fn call_node(&self, node: u64, request: &NodeRequest, wait: Duration) -> RpcReplies {
        let channel = self.0.names.node_channel(node);
        self.call(channel, 0, request, wait).await
    }

    /// `own`: how many of the channel's subscribers are in this process.
    async fn call(
        &self,
        channel: String,
        own: usize,
        request: &NodeRequest,
        wait: Duration,
    ) -> RpcReplies {
        let mut replies = RpcReplies {
            replies: Vec::new(),
            unanswered: 1,
        };
        let Ok(json) = serde_json::to_vec(request) else {
            return replies;
        };
        let (call, mut received) = self.0.pending_calls.await_replies();
        let payload = wire::request(self.0.node, call.id, &json);
        let (reply, replied) = oneshot::channel();
        let is_queued = self.0.outbox.push_if_connected(QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::NodeMessage { channel, payload },
            reply: Some(reply),
        });
        if is_queued && let Ok(Ok(answer)) = tokio::time::timeout(wait, replied).await {
            let others = reached(&answer).saturating_sub(own);
            // While the cluster moves slots, a message may reach more subscribers than Redis
            // counts.
            let is_resharding = self.0.is_resharding.load(Ordering::Relaxed);
            let others = others.max(usize::from(is_resharding));
            let deadline = tokio::time::Instant::now() + wait;
            while replies.replies.len() < others
                && let Ok(Some(reply)) = tokio::time::timeout_at(deadline, received.recv()).await
            {
                replies.replies.push(reply);
            }
            replies.unanswered = others - replies.replies.len();
        }
        replies
    }

    /// Sends a process the delivery counts of an event that it asked for.
    pub(super) fn reply_counts(&self, node: u64, id: u64, queued: usize, dropped: usize) {
        if node == self.0.node {
            self.0.pending_calls.on_counts(id, queued, dropped);
        } else {
            self.send_to_node(node, wire::counted(id, queued, dropped));
        }
    }

    pub(super) fn on_reply(&self, id: u64, json: &[u8]) {
        if let Ok(reply) = serde_json::from_slice(json) {
            self.0.pending_calls.on_reply(id, reply);
        }
    }

    /// Handles a request of another process, in its own task.
    pub(super) fn on_request(&self, caller: u64, id: u64, json: &[u8]) {
        if caller == self.0.node {
            return;
        }
        let (Some(rpc_handler), Ok(permit)) =
            (self.0.rpc_handler.get().cloned(), HANDLING.try_acquire())
        else {
            return;
        };
        let request = serde_json::from_slice::<NodeRequest>(json);
        let remote = self.clone();
        let tasks = self.0.local.tasks();
        tasks.spawn("reply to another process", async move {
            let reply = match request {
                Ok(request) => {
                    tokio::time::timeout(REPLY_TIMEOUT, rpc_handler.handle(request)).await
                }
                Err(_) => Ok(NodeReply::NotFound),
            };
            if let Ok(reply) = reply
                && let Ok(json) = serde_json::to_vec(&reply)
            {
                remote.send_to_node(caller, wire::reply(id, &json));
            }
            drop(permit);
        });
    }

    fn send_to_node(&self, node: u64, payload: Vec<u8>) {
        let channel = self.0.names.node_channel(node);
        self.0.outbox.push_if_connected(QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::NodeMessage { channel, payload },
            reply: None,
        });
    }
}
