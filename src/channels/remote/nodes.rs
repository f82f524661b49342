//! Nodes: what the processes ask each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::outbox::{Act, COMMAND_BYTES, Order};
use super::{Remote, reached, wire};
use crate::channels::Sent;

/// How long a process may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How many questions are answered at once; more are not answered.
static ANSWERING: Semaphore = Semaphore::const_new(64);

/// How many answers to one question are waited for at most.
const ANSWERS_MAX: usize = 1024;

/// Answers what another process of ours asks.
pub trait Answerer: Send + Sync + 'static {
    /// Returns the answer to a question.
    fn answer(&self, question: Value) -> Pin<Box<dyn Future<Output = Value> + Send + '_>>;
}

/// What the other processes answered.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// One for each that did.
    pub answers: Vec<Value>,
    /// How many did not, in time; 1 when Redis itself did not.
    pub unanswered: usize,
}

/// Who waits for messages under a number.
pub(super) enum Waiting {
    Counts(mpsc::Sender<(usize, usize)>),
    Answers(mpsc::Sender<Value>),
}

/// Counts that come in.
pub(super) struct Counts {
    _number: Number,
    come: mpsc::Receiver<(usize, usize)>,
}

impl Counts {
    /// Adds up what so many processes say; returns how many kept still.
    pub(super) async fn collect(&mut self, expected: usize, wait: Duration) -> (Sent, usize) {
        let mut sent = Sent::default();
        let deadline = tokio::time::Instant::now() + wait;
        for come in 0..expected {
            match tokio::time::timeout_at(deadline, self.come.recv()).await {
                Ok(Some((queued, dropped))) => {
                    sent.queued += queued;
                    sent.dropped += dropped;
                }
                _ => return (sent, expected - come),
            }
        }
        (sent, 0)
    }
}

/// Takes a number back when nobody waits for it any more.
struct Number {
    remote: Remote,
    id: u64,
}

impl Drop for Number {
    fn drop(&mut self) {
        self.remote.0.waiting.lock().remove(&self.id);
    }
}

impl Remote {
    /// Says who answers what other processes ask. Called once.
    pub(crate) fn set_answerer(&self, answerer: Arc<dyn Answerer>) {
        let _ = self.0.answerer.set(answerer);
    }

    /// Asks all other processes of ours; waits for each at most a second.
    pub async fn ask(&self, question: &Value) -> Answers {
        self.ask_at(self.nodes_channel(), 1, question, ANSWER_MAX)
            .await // we hear ourselves
    }

    /// Asks one of the other processes, and waits so long; nobody answers when there is none of that number.
    pub async fn ask_node(&self, node: u64, question: &Value, wait: Duration) -> Answers {
        self.ask_at(self.node_channel(node), 0, question, wait)
            .await
    }

    async fn ask_at(
        &self,
        channel: String,
        ourselves: usize,
        question: &Value,
        wait: Duration,
    ) -> Answers {
        let (sender, mut come) = mpsc::channel(ANSWERS_MAX);
        let number = self.wait_for(Waiting::Answers(sender));
        let payload = wire::question(self.0.node, number.id, question.to_string().as_bytes());
        let (reply, replied) = oneshot::channel();
        let is_taken = self.0.outbox.push_plain(Order {
            size: payload.len() + COMMAND_BYTES,
            act: Act::Tell { channel, payload },
            reply: Some(reply),
        });
        let mut answers = Answers {
            answers: Vec::new(),
            unanswered: 1,
        };
        if is_taken && let Ok(Ok(answer)) = tokio::time::timeout(wait, replied).await {
            // While slots move a message may reach others than Redis counts.
            let is_in_flux = self.0.in_flux.load(std::sync::atomic::Ordering::Relaxed);
            let others = reached(&answer).saturating_sub(ourselves);
            let others = others.max(usize::from(is_in_flux));
            let deadline = tokio::time::Instant::now() + wait;
            while answers.answers.len() < others
                && let Ok(Some(answer)) = tokio::time::timeout_at(deadline, come.recv()).await
            {
                answers.answers.push(answer);
            }
            answers.unanswered = others - answers.answers.len();
        }
        answers
    }

    pub(super) fn wait_for_counts(&self) -> (u64, Counts) {
        let (sender, come) = mpsc::channel(ANSWERS_MAX);
        let number = self.wait_for(Waiting::Counts(sender));
        let counts = |_number| Counts { _number, come };
        (number.id, counts(number))
    }

    fn wait_for(&self, waiting: Waiting) -> Number {
        let id = self.0.next_question();
        self.0.waiting.lock().insert(id, waiting);
        let remote = self.clone();
        Number { remote, id }
    }

    /// Says what became of an event that another process counts.
    pub(super) fn say_counted(&self, node: u64, id: u64, queued: usize, dropped: usize) {
        if node == self.0.node {
            self.hear_counted(id, queued, dropped);
        } else {
            self.say(node, wire::counted(id, queued, dropped));
        }
    }

    pub(super) fn hear_counted(&self, id: u64, queued: usize, dropped: usize) {
        if let Some(Waiting::Counts(waiting)) = self.0.waiting.lock().get(&id) {
            let _ = waiting.try_send((queued, dropped));
        }
    }

    pub(super) fn hear_answer(&self, id: u64, json: &[u8]) {
        if let Some(Waiting::Answers(waiting)) = self.0.waiting.lock().get(&id)
            && let Ok(answer) = serde_json::from_slice(json)
        {
            let _ = waiting.try_send(answer);
        }
    }

    /// Answers a question in a task of its own.
    pub(super) fn hear_question(
        &self,
        asker: u64,
        id: u64,
        json: &[u8],
        tasks: &crate::tasks::Tasks,
    ) {
        if asker == self.0.node {
            return;
        }
        let (Some(answerer), Ok(question), Ok(turn)) = (
            self.0.answerer.get().cloned(),
            serde_json::from_slice(json),
            ANSWERING.try_acquire(),
        ) else {
            return;
        };
        let remote = self.clone();
        tasks.spawn("answer to another process", async move {
            let answer = tokio::time::timeout(ANSWER_MAX, answerer.answer(question)).await;
            if let Ok(answer) = answer {
                remote.say(asker, wire::answer(id, answer.to_string().as_bytes()));
            }
            drop(turn);
        });
    }

    fn say(&self, node: u64, payload: Vec<u8>) {
        self.0.outbox.push_plain(Order {
            size: payload.len() + COMMAND_BYTES,
            act: Act::Tell {
                channel: self.node_channel(node),
                payload,
            },
            reply: None,
        });
    }
}
