//! Conversation: what one connection and its backend say to each other, one request at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::disconnects::Disconnects;
use super::endpoint::{Endpoint, PostError, back_off};
use super::executor::Executor;
use super::protocol::{self, BackendResponse, Connection};
use crate::services::Services;
use crate::websocket::SocketHandle;
use crate::websocket::close::{Cause, Ending};

/// How long to wait before the next try when the server stops.
const PAUSE_LAST: Duration = Duration::from_millis(100);

/// How long what waits is still tried when all sockets have ended.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// The longest pause before a request is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The bounds of one connection's conversation.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) headers: Vec<HeaderName>,
    pub(super) retries: u32,
    pub(super) batch_events: usize,
    pub(super) batch_bytes: usize,
    pub(super) max_effects: usize,
    pub(super) max_state: usize,
    pub(super) hold: usize,
    pub(super) hold_time: Duration,
}

impl Bounds {
    /// Returns how many actions an answer may hold, and how long its state may be.
    pub(super) fn of_answer(&self) -> (usize, usize) {
        (self.max_effects, self.max_state)
    }
}

/// What all connections of a route share.
pub(super) struct Shared {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) disconnects: Arc<Disconnects>,
    pub(super) services: Services,
    pub(super) node: String,
    pub(super) bounds: Bounds,
}

/// What one connection and its backend say to each other.
pub(super) struct Conversation {
    shared: Arc<Shared>,
    link: Arc<SocketHandle>,
    pub(super) executor: Executor,
    id: String,
    talk: Mutex<Talk>,
    room: Notify,
}

struct Talk {
    seq: u64,
    state: Option<Box<RawValue>>,
    waiting: VecDeque<QueuedEvent>,
    bytes: usize,
    /// A request is under way, and takes care of what follows.
    is_busy: bool,
    /// How often a request of the same first event said something else than the one before.
    again: u32,
    /// Since when the backend answers without taking anything.
    stalled: Option<Instant>,
    /// Nothing more is to be said but the end.
    has_failed: bool,
    end: Option<(u16, String, &'static str)>,
}

struct QueuedEvent {
    seq: u64,
    event: Box<RawValue>,
}

/// Why the connection has to end.
struct Failed {
    cause: Cause,
    sentence: String,
}

fn backend_error(sentence: impl Into<String>) -> Failed {
    Failed {
        cause: Cause::BackendError,
        sentence: sentence.into(),
    }
}

fn backend_away(sentence: impl Into<String>) -> Failed {
    Failed {
        cause: Cause::BackendAway,
        sentence: sentence.into(),
    }
}

impl Shared {
    /// Returns a connection's number among all processes.
    pub(super) fn connection_id(&self, number: u64) -> String {
        format!("{}.{number}", self.node)
    }

    /// Tells the backend, after a while, of a connection that it accepted and that is gone.
    pub(super) fn tell_disconnect(
        &self,
        id: &str,
        state: Option<&RawValue>,
        scope: &RawValue,
        seq: u64,
        (code, reason, cause): (u16, &str, &str),
        after: Duration,
    ) {
        let event = protocol::raw(&protocol::disconnect_event(seq, code, reason, cause));
        let body = protocol::body(&self.connection(id, state), scope, &[&*event]);
        self.disconnects.tell(format!("{id}-{seq}"), body, after);
    }

    pub(super) fn connection<'a>(
        &'a self,
        id: &'a str,
        state: Option<&'a RawValue>,
    ) -> Connection<'a> {
        Connection {
            id,
            node: &self.node,
            name: &self.services.name,
            state,
        }
    }
}

impl Conversation {
    pub(super) fn new(
        shared: Arc<Shared>,
        link: Arc<SocketHandle>,
        state: Option<Box<RawValue>>,
        seq: u64,
    ) -> Arc<Self> {
        let id = shared.connection_id(link.id());
        let talk = Talk {
            seq,
            state,
            waiting: VecDeque::new(),
            bytes: 0,
            is_busy: false,
            again: 0,
            stalled: None,
            has_failed: false,
            end: None,
        };
        let executor = Executor::new(shared.services.clone(), link.clone());
        Arc::new(Self {
            shared,
            link,
            executor,
            id,
            talk: Mutex::new(talk),
            room: Notify::new(),
        })
    }

    /// Takes an event for the backend; waits while too much waits before it.
    pub(super) async fn say(self: &Arc<Self>, event: impl FnOnce(u64) -> Value) {
        let bounds = &self.shared.bounds;
        let deadline = tokio::time::Instant::now() + bounds.hold_time;
        let mut event = Some(event);
        loop {
            let (room, room_for_all) = (self.room.notified(), self.shared.endpoint.backlog.room());
            {
                let mut talk = self.talk();
                if talk.has_failed || talk.end.is_some() {
                    return;
                }
                if talk.bytes < bounds.hold && self.shared.endpoint.backlog.has_room() {
                    let Some(event) = event.take() else { return };
                    talk.seq += 1;
                    let seq = talk.seq;
                    let event = protocol::raw(&event(seq));
                    talk.bytes += event.get().len();
                    self.shared.endpoint.backlog.queue(event.get().len());
                    talk.waiting.push_back(QueuedEvent { seq, event });
                    if !std::mem::replace(&mut talk.is_busy, true) {
                        drop(talk);
                        let tasks = &self.shared.services.tasks;
                        tasks.spawn("backend conversation", self.clone().talk_on());
                    }
                    return;
                }
            }
            let is_away = self.shared.endpoint.open_for().is_some();
            let is_late = async {
                tokio::select! {
                    () = room => false,
                    () = room_for_all => false,
                    () = tokio::time::sleep_until(deadline) => true,
                }
            };
            if is_away || is_late.await {
                let hold = bounds.hold;
                return self.fail(&backend_away(format!(
                    "more than {hold} bytes waited for the backend, or more than hold_total of all connections"
                )));
            }
        }
    }

    /// The socket has ended: the backend is told, after all that was said before.
    pub(super) fn end(&self, code: u16, reason: &str, cause: &'static str) {
        let mut talk = self.talk();
        if talk.end.is_some() {
            return;
        }
        self.executor.end();
        talk.seq += 1;
        talk.end = Some((code, reason.to_owned(), cause));
        if !talk.is_busy {
            self.tell_end(&talk);
        }
    }

    fn tell_end(&self, talk: &Talk) {
        let Some((code, reason, cause)) = &talk.end else {
            return;
        };
        let scope = protocol::raw(&self.scope());
        let end = (*code, reason.as_str(), *cause);
        let state = talk.state.as_deref();
        self.shared
            .tell_disconnect(&self.id, state, &scope, talk.seq, end, Duration::ZERO);
    }

    fn scope(&self) -> Value {
        protocol::scope(self.link.scope(), &self.shared.bounds.headers)
    }

    /// Sends what waits, a batch after the other, until nothing does.
    async fn talk_on(self: Arc<Self>) {
        loop {
            let Some((key, last)) = self.batch() else {
                return;
            };
            let said = match self.post(&key, last).await {
                Ok(Some(answer)) => self.take(answer, last).await,
                Ok(None) => continue, // it failed meanwhile
                Err(failed) => Err(failed),
            };
            if let Err(failed) = said {
                self.fail(&failed);
            }
        }
    }

    /// Returns the key of the next request and its last event; none when nothing waits, and then nobody is busy any more.
    fn batch(&self) -> Option<(String, u64)> {
        let mut talk = self.talk();
        let bounds = &self.shared.bounds;
        if talk.waiting.is_empty() {
            talk.is_busy = false;
            self.tell_end(&talk);
            return None;
        }
        let mut bytes = 0;
        let first = talk.waiting.front().map_or(0, |waiting| waiting.seq);
        let mut last = first;
        for waiting in talk.waiting.iter().take(bounds.batch_events) {
            bytes += waiting.event.get().len();
            if waiting.seq > first && bytes > bounds.batch_bytes {
                break;
            }
            last = waiting.seq;
        }
        let key = match talk.again {
            0 => format!("{}-{first}", self.id),
            again => format!("{}-{first}.{again}", self.id),
        };
        Some((key, last))
    }

    /// Makes the body of the request whose last event this is: the same bytes at each try, for until it is answered nothing is taken
    /// from what waits. `None` when the conversation failed meanwhile.
    fn body(&self, last: u64) -> Option<Bytes> {
        let talk = self.talk();
        if talk.has_failed {
            return None;
        }
        let scope = protocol::raw(&self.scope());
        let connection = self.shared.connection(&self.id, talk.state.as_deref());
        let waiting = talk.waiting.iter();
        let events: Vec<&RawValue> = waiting
            .take_while(|waiting| waiting.seq <= last)
            .map(|waiting| &*waiting.event)
            .collect();
        Some(protocol::body(&connection, &scope, &events).into())
    }

    /// POSTs the events up to `last` until they are answered, or the backend was away for too long. `None` when the conversation
    /// failed meanwhile.
    async fn post(&self, key: &str, last: u64) -> Result<Option<BackendResponse>, Failed> {
        let bounds = &self.shared.bounds;
        let began = Instant::now();
        let mut stopping = None;
        let mut attempt = 0;
        loop {
            let error = match self
                .shared
                .endpoint
                .post(key, &|| self.body(last), bounds.of_answer())
                .await
            {
                Ok(answer) => return Ok(Some(answer)),
                Err(PostError::GivenUp) => return Ok(None),
                Err(error) => error,
            };
            if !error.is_passing() {
                return Err(backend_error(error.to_string()));
            }
            let mut is_late = false;
            if self.shared.services.tasks.is_stopping() {
                let since = *stopping.get_or_insert_with(Instant::now);
                is_late = since.elapsed() >= FAREWELL_MAX;
            }
            if is_late || began.elapsed() >= bounds.hold_time {
                return Err(backend_away(error.to_string()));
            }
            let pause = async {
                match &error {
                    PostError::CircuitOpen(left) => {
                        let held = bounds.hold_time.saturating_sub(began.elapsed());
                        tokio::time::sleep(held.min(*left)).await;
                    }
                    _ if attempt < bounds.retries => back_off(attempt, BACKOFF_MAX).await,
                    _ => back_off(attempt.max(4), BACKOFF_MAX).await,
                }
            };
            let until_stop = async {
                self.shared.services.tasks.stopping().await;
                tokio::time::sleep(PAUSE_LAST).await;
            };
            tokio::select! {
                () = pause => {}
                () = until_stop => {} // there is no time for more
            }
            attempt += 1;
        }
    }

    /// Takes an answer: what it acknowledges is done, what it wants happens.
    async fn take(&self, answer: BackendResponse, last: u64) -> Result<(), Failed> {
        let BackendResponse { ack, state, events } = answer;
        let ack = ack.unwrap_or(last);
        let mut done_bytes = 0;
        let stalled = {
            let mut talk = self.talk();
            let before = talk.waiting.len();
            let first = talk.waiting.front().map_or(0, |waiting| waiting.seq);
            if ack > last || ack + 1 < first {
                return Err(backend_error(format!(
                    "expected an ack from {} to {last}, found {ack}",
                    first.saturating_sub(1)
                )));
            }
            while talk
                .waiting
                .front()
                .is_some_and(|waiting| waiting.seq <= ack)
                && let Some(done) = talk.waiting.pop_front()
            {
                talk.bytes -= done.event.get().len();
                done_bytes += done.event.get().len();
            }
            if state.is_some() {
                talk.state = state;
            }
            if talk.waiting.len() < before {
                (talk.stalled, talk.again) = (None, 0);
            } else {
                talk.stalled.get_or_insert_with(Instant::now);
                talk.again += 1;
            }
            talk.stalled
        };
        self.shared.endpoint.backlog.release(done_bytes);
        self.room.notify_waiters();
        for action in events {
            if self.executor.apply(action).await.map_err(backend_error)? {
                break;
            }
        }
        let Some(since) = stalled else {
            return Ok(());
        };
        // It wants all of it again.
        let hold_time = self.shared.bounds.hold_time;
        if since.elapsed() >= hold_time || self.shared.services.tasks.is_stopping() {
            return Err(backend_away(format!(
                "it has acknowledged nothing for {hold_time:?}"
            )));
        }
        back_off(2, BACKOFF_MAX).await;
        Ok(())
    }

    fn fail(&self, failed: &Failed) {
        let endpoint = &self.shared.endpoint.settings.url.label;
        tracing::error!(%endpoint, id = self.id, "the conversation ends: {}", failed.sentence);
        {
            let mut talk = self.talk();
            talk.has_failed = true;
            talk.waiting.clear();
            let bytes = std::mem::take(&mut talk.bytes);
            self.shared.endpoint.backlog.release(bytes);
        }
        self.room.notify_waiters();
        self.link.end(Ending::of(failed.cause));
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock()
    }
}
