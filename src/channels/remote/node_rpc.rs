//! Nodes: what the processes ask each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::outbox::{COMMAND_BYTES, CommandKind, QueuedCommand};
use super::{Remote, reached, wire};
use crate::channels::Sent;

/// How long a process may take to answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

/// How many questions are answered at once; more are not answered.
static HANDLING: Semaphore = Semaphore::const_new(64);

/// How many answers to one question are waited for at most.
const REPLIES_MAX: usize = 1024;

/// Answers what another process of ours asks.
pub trait RpcHandler: Send + Sync + 'static {
    /// Returns the answer to a question.
    fn handle(&self, request: Value) -> Pin<Box<dyn Future<Output = Value> + Send + '_>>;
}

/// What the other processes answered.
#[derive(Clone, Debug, Default)]
pub struct RpcReplies {
    /// One for each that did.
    pub answers: Vec<Value>,
    /// How many did not, in time; 1 when Redis itself did not.
    pub unanswered: usize,
}

/// Who waits for messages under a number.
pub(super) enum PendingCall {
    Counts(mpsc::Sender<(usize, usize)>),
    Replies(mpsc::Sender<Value>),
}

/// Counts that come in.
pub(super) struct DeliveryCounts {
    _number: CallId,
    replies: mpsc::Receiver<(usize, usize)>,
}

impl DeliveryCounts {
    /// Adds up what so many processes say; returns how many kept still.
    pub(super) async fn collect(&mut self, expected: usize, wait: Duration) -> (Sent, usize) {
        let mut sent = Sent::default();
        let deadline = tokio::time::Instant::now() + wait;
        for replies in 0..expected {
            match tokio::time::timeout_at(deadline, self.replies.recv()).await {
                Ok(Some((queued, dropped))) => {
                    sent.queued += queued;
                    sent.dropped += dropped;
                }
                _ => return (sent, expected - replies),
            }
        }
        (sent, 0)
    }
}

/// Takes a number back when nobody waits for it any more.
struct CallId {
    remote: Remote,
    id: u64,
}

impl Drop for CallId {
    fn drop(&mut self) {
        self.remote.0.pending_calls.lock().remove(&self.id);
    }
}

impl Remote {
    /// Says who answers what other processes ask. Called once.
    pub(crate) fn set_rpc_handler(&self, rpc_handler: Arc<dyn RpcHandler>) {
        let _ = self.0.rpc_handler.set(rpc_handler);
    }

    /// Asks all other processes of ours; waits for each at most a second.
    pub async fn call_all(&self, request: &Value) -> RpcReplies {
        self.call_channel(self.nodes_channel(), 1, request, REPLY_TIMEOUT)
            .await // we hear ourselves
    }

    /// Asks one of the other processes, and waits so long; nobody answers when there is none of that number.
    pub async fn call_node(&self, node: u64, request: &Value, wait: Duration) -> RpcReplies {
        self.call_channel(self.node_channel(node), 0, request, wait)
            .await
    }

    async fn call_channel(
        &self,
        channel: String,
        ourselves: usize,
        request: &Value,
        wait: Duration,
    ) -> RpcReplies {
        let (sender, mut replies) = mpsc::channel(REPLIES_MAX);
        let number = self.register_call(PendingCall::Replies(sender));
        let payload = wire::request(self.0.node, number.id, request.to_string().as_bytes());
        let (reply, replied) = oneshot::channel();
        let is_taken = self.0.outbox.push_if_connected(QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::NodeMessage { channel, payload },
            reply: Some(reply),
        });
        let mut answers = RpcReplies {
            answers: Vec::new(),
            unanswered: 1,
        };
        if is_taken && let Ok(Ok(answer)) = tokio::time::timeout(wait, replied).await {
            // While slots move a message may reach others than Redis counts.
            let is_resharding = self
                .0
                .is_resharding
                .load(std::sync::atomic::Ordering::Relaxed);
            let others = reached(&answer).saturating_sub(ourselves);
            let others = others.max(usize::from(is_resharding));
            let deadline = tokio::time::Instant::now() + wait;
            while answers.answers.len() < others
                && let Ok(Some(answer)) = tokio::time::timeout_at(deadline, replies.recv()).await
            {
                answers.answers.push(answer);
            }
            answers.unanswered = others - answers.answers.len();
        }
        answers
    }

    pub(super) fn wait_for_counts(&self) -> (u64, DeliveryCounts) {
        let (sender, replies) = mpsc::channel(REPLIES_MAX);
        let number = self.register_call(PendingCall::Counts(sender));
        let counts = |_number| DeliveryCounts { _number, replies };
        (number.id, counts(number))
    }

    fn register_call(&self, waiting: PendingCall) -> CallId {
        let id = self.0.next_call_id();
        self.0.pending_calls.lock().insert(id, waiting);
        let remote = self.clone();
        CallId { remote, id }
    }

    /// Says what became of an event that another process counts.
    pub(super) fn reply_counts(&self, node: u64, id: u64, queued: usize, dropped: usize) {
        if node == self.0.node {
            self.on_counts(id, queued, dropped);
        } else {
            self.send_to_node(node, wire::counted(id, queued, dropped));
        }
    }

    pub(super) fn on_counts(&self, id: u64, queued: usize, dropped: usize) {
        if let Some(PendingCall::Counts(waiting)) = self.0.pending_calls.lock().get(&id) {
            let _ = waiting.try_send((queued, dropped));
        }
    }

    pub(super) fn on_reply(&self, id: u64, json: &[u8]) {
        if let Some(PendingCall::Replies(waiting)) = self.0.pending_calls.lock().get(&id)
            && let Ok(answer) = serde_json::from_slice(json)
        {
            let _ = waiting.try_send(answer);
        }
    }

    /// Answers a question in a task of its own.
    pub(super) fn on_request(
        &self,
        caller: u64,
        id: u64,
        json: &[u8],
        tasks: &crate::tasks::Tasks,
    ) {
        if caller == self.0.node {
            return;
        }
        let (Some(rpc_handler), Ok(request), Ok(turn)) = (
            self.0.rpc_handler.get().cloned(),
            serde_json::from_slice(json),
            HANDLING.try_acquire(),
        ) else {
            return;
        };
        let remote = self.clone();
        tasks.spawn("answer to another process", async move {
            let answer = tokio::time::timeout(REPLY_TIMEOUT, rpc_handler.handle(request)).await;
            if let Ok(answer) = answer {
                remote.send_to_node(caller, wire::reply(id, answer.to_string().as_bytes()));
            }
            drop(turn);
        });
    }

    fn send_to_node(&self, node: u64, payload: Vec<u8>) {
        self.0.outbox.push_if_connected(QueuedCommand {
            size: payload.len() + COMMAND_BYTES,
            kind: CommandKind::NodeMessage {
                channel: self.node_channel(node),
                payload,
            },
            reply: None,
        });
    }
}
