//! Conversation: the requests of one open connection, one at a time and in order.
//!
//! ```text
//!        push                         nothing queued
//! Idle ────────► Sending ─────────────────────────────► Idle     (a task exists in Sending and Failing only)
//!   │               │ fail
//!   │ fail          ▼           the task notices
//!   └──────────► Failing ─────────────────────────────► Failed
//! ```
//!
//! The socket may end in any state. `websocket.disconnect` goes to
//! [`Disconnects`](super::disconnects) once no request is under way: at once in `Idle` and
//! `Failed`, otherwise by the task in its last step. So the backend never gets it before an earlier
//! event.
//!
//! An event stays in the queue until the backend acknowledges it. A retried request has the same
//! key and the same bytes. If the backend acknowledges none of a request's events, the same events
//! are sent with another key, because the state may have changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::endpoint::{PostError, back_off};
use super::executor::{Applied, Executor};
use super::failure::{Failure, backend_away, backend_error};
use super::protocol::action::Action;
use super::protocol::{self, BackendResponse, Disconnect, event};
use super::queue::{EventQueue, Origin};
use super::route::EndpointRoute;
use crate::channels::{GroupLimit, GroupLimitReached};
use crate::client::ClientError;
use crate::telemetry::trace;
use crate::websocket::SocketHandle;
use crate::websocket::close::Ending;

/// The pause before the next attempt when the server is stopping: there is no time for a longer
/// one.
const STOPPING_PAUSE: Duration = Duration::from_millis(100);

/// How long a stopping server continues to retry.
const STOPPING_RETRY_MAX: Duration = Duration::from_secs(3);

/// The longest pause before a request is retried, or is made because of a response alone.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The requests of one open connection.
pub(super) struct Conversation {
    route: Arc<EndpointRoute>,
    socket: Arc<SocketHandle>,
    executor: Executor,
    id: String,
    state: Mutex<State>,
    /// Notified when the queue gets shorter or the conversation fails.
    room: Notify,
}

struct State {
    phase: Phase,
    /// The number of the last event.
    seq: u64,
    /// The backend's own state, sent with each request.
    connection_state: Option<Box<RawValue>>,
    queue: EventQueue,
    /// How many times in a row the backend acknowledged nothing: part of the next request's key.
    redelivery: u32,
    /// How many times in a row it acknowledged nothing but what came from its own responses.
    own_events: u32,
    /// The time since which it has acknowledged nothing.
    stalled_since: Option<Instant>,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Nothing is queued, and no task runs.
    Idle,
    /// A task sends the queued events.
    Sending,
    /// The conversation has failed while the task runs.
    Failing,
    /// The conversation has failed, and no task runs.
    Failed,
}

impl Phase {
    fn has_task(self) -> bool {
        matches!(self, Self::Sending | Self::Failing)
    }

    fn has_failed(self) -> bool {
        matches!(self, Self::Failing | Self::Failed)
    }

    fn fail(self) -> Self {
        match self {
            Self::Sending | Self::Failing => Self::Failing,
            Self::Idle | Self::Failed => Self::Failed,
        }
    }

    /// The task returns.
    fn task_ended(self) -> Self {
        match self {
            Self::Idle | Self::Sending => Self::Idle,
            Self::Failing | Self::Failed => Self::Failed,
        }
    }
}

/// How the socket ended.
struct End {
    code: u16,
    reason: String,
    cause: &'static str,
}

impl Conversation {
    /// Creates the conversation of a socket that has opened, with the state from the handshake.
    pub(super) fn new(
        route: Arc<EndpointRoute>,
        socket: Arc<SocketHandle>,
        connection_state: Option<Box<RawValue>>,
    ) -> Arc<Self> {
        let id = route.connection_id(socket.id());
        let executor = Executor::new(route.services.clone(), socket.clone());
        Arc::new(Self {
            route,
            socket,
            executor,
            id,
            state: Mutex::new(State {
                phase: Phase::Idle,
                seq: 1, // `websocket.connect`
                connection_state,
                queue: EventQueue::default(),
                redelivery: 0,
                own_events: 0,
                stalled_since: None,
                end: None,
            }),
            room: Notify::new(),
        })
    }

    /// Carries out a response's actions, up to one that closes the connection. The groups that the
    /// socket could not join go to the backend as `group.refused`.
    pub(super) async fn apply(self: &Arc<Self>, actions: Vec<Action>) -> Result<(), String> {
        let mut refused = Vec::new();
        for action in actions {
            match self.executor.apply(action).await? {
                Applied::Open => {}
                Applied::Refused(reached) => refused.push(reached),
                Applied::Closed => return Ok(()),
            }
        }
        self.notify_refused(&refused);
        Ok(())
    }

    /// Queues `group.refused`, one event for each limit. It does not wait for room: the task that
    /// makes room may be the caller. The names fit into the response that they came from, and those
    /// of one response may exceed the bound of the queue: if those that wait are as long as the bound
    /// already, the conversation fails.
    fn notify_refused(self: &Arc<Self>, refused: &[GroupLimitReached]) {
        if refused.is_empty() {
            return;
        }
        let is_full = {
            let state = self.state.lock();
            if state.phase.has_failed() || state.end.is_some() {
                return;
            }
            state.queue.bytes_of_responses() >= self.route.limits.hold
        };
        if is_full {
            return self.fail(&self.queue_full());
        }
        for limit in [GroupLimit::PerSocket, GroupLimit::PerIp] {
            let of_limit = refused.iter().filter(|reached| reached.limit == limit);
            let groups: Vec<&str> = of_limit.map(|reached| reached.group.as_str()).collect();
            let state = self.state.lock();
            if !groups.is_empty() && !state.phase.has_failed() && state.end.is_none() {
                let max = self.route.services.group_limits.max(limit);
                let event =
                    |seq| protocol::raw(&event::group_refused(seq, &groups, limit.key(), max));
                self.enqueue(state, Origin::Response, event);
            }
        }
    }

    fn has_room(&self, state: &State) -> bool {
        state.queue.bytes() < self.route.limits.hold && self.route.endpoint.backlog.has_room()
    }

    fn queue_full(&self) -> Failure {
        let hold = self.route.limits.hold;
        backend_away(format!(
            "queue full: {hold} bytes of this connection, or hold_total of all connections"
        ))
    }

    /// Queues an event; `event` builds it from its number. Waits while the queue is full, up to
    /// `hold_time`; then the conversation fails. Drops the event if the conversation has failed.
    pub(super) async fn push(self: &Arc<Self>, event: impl FnOnce(u64) -> Box<RawValue>) {
        let limits = &self.route.limits;
        let backlog = &self.route.endpoint.backlog;
        let deadline = tokio::time::Instant::now() + limits.hold_time;
        let mut event = Some(event);
        loop {
            // Race: room may appear between the check below and the wait. Both futures exist before
            // the check, so they see a notification of that moment.
            let (room, room_for_all) = (self.room.notified(), backlog.room());
            {
                let state = self.state.lock();
                if state.phase.has_failed() || state.end.is_some() {
                    return;
                }
                if self.has_room(&state) {
                    let Some(event) = event.take() else { return };
                    self.enqueue(state, Origin::Socket, event);
                    return;
                }
            }
            let is_circuit_open = self.route.endpoint.open_for().is_some();
            let is_late = async {
                tokio::select! {
                    () = room => false,
                    () = room_for_all => false,
                    () = tokio::time::sleep_until(deadline) => true,
                }
            };
            if is_circuit_open || is_late.await {
                return self.fail(&self.queue_full());
            }
        }
    }

    fn enqueue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        origin: Origin,
        event: impl FnOnce(u64) -> Box<RawValue>,
    ) {
        state.seq += 1;
        let seq = state.seq;
        let event = event(seq);
        self.route.endpoint.backlog.queue(event.get().len());
        state.queue.push(seq, origin, event);
        if state.phase == Phase::Idle {
            state.phase = Phase::Sending;
            drop(state);
            let tasks = &self.route.services.tasks;
            tasks.spawn("backend conversation", trace::carry(self.clone().run()));
        }
    }

    /// Called when the socket has ended. The backend is notified after all earlier events.
    pub(super) fn end(&self, code: u16, reason: &str, cause: &'static str) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        self.executor.close();
        state.seq += 1;
        let reason = reason.to_owned();
        state.end = Some(End {
            code,
            reason,
            cause,
        });
        if !state.phase.has_task() {
            self.notify_end(&state);
        }
    }

    fn notify_end(&self, state: &State) {
        let Some(end) = &state.end else { return };
        let scope = protocol::raw(&self.scope());
        let disconnect = Disconnect {
            seq: state.seq,
            code: end.code,
            reason: &end.reason,
            cause: end.cause,
        };
        let connection_state = state.connection_state.as_deref();
        self.route.notify_disconnect(
            &self.id,
            connection_state,
            &scope,
            &disconnect,
            Duration::ZERO,
        );
    }

    fn scope(&self) -> Value {
        protocol::scope(self.socket.scope(), &self.route.limits.headers)
    }

    /// Sends the queued events, one batch after the other, until the queue is empty.
    async fn run(self: Arc<Self>) {
        while let Some((key, last)) = self.next_batch() {
            let sent = match self.post(&key, last).await {
                Ok(Some(response)) => self.handle(response, last).await,
                Ok(None) => continue, // the conversation has failed
                Err(failure) => Err(failure),
            };
            if let Err(failure) = sent {
                self.fail(&failure);
            }
        }
    }

    /// Returns the key of the next request and the number of its last event. `None`: the queue is
    /// empty, and the task counts as ended.
    fn next_batch(&self) -> Option<(String, u64)> {
        let mut state = self.state.lock();
        let limits = &self.route.limits;
        let batch = state.queue.batch(limits.batch_events, limits.batch_bytes);
        let Some((first, last)) = batch else {
            // Race: an event may be queued right after this. Its sender finds a phase without a
            // task and starts another one, because the phase changes under the lock that looked at
            // the queue.
            state.phase = state.phase.task_ended();
            self.notify_end(&state);
            return None;
        };
        let key = match state.redelivery {
            0 => format!("{}-{first}", self.id),
            redelivery => format!("{}-{first}.{redelivery}", self.id),
        };
        Some((key, last))
    }

    /// Builds the body of the request with the events up to `last`: the same bytes for each
    /// attempt, because no event leaves the queue before the response. `None`: the conversation has
    /// failed.
    fn body(&self, last: u64) -> Option<Bytes> {
        let state = self.state.lock();
        if state.phase.has_failed() {
            return None;
        }
        let scope = protocol::raw(&self.scope());
        let connection_state = state.connection_state.as_deref();
        let connection = self.route.connection(&self.id, connection_state);
        let events: Vec<&RawValue> = state.queue.up_to(last).collect();
        Some(protocol::request_body(&connection, &scope, &events).into())
    }

    /// POSTs the events up to `last` until there is a response, or the backend has been unavailable
    /// for `hold_time`. `None`: the conversation has failed.
    async fn post(&self, key: &str, last: u64) -> Result<Option<BackendResponse>, Failure> {
        let limits = &self.route.limits;
        let tasks = &self.route.services.tasks;
        let started_at = Instant::now();
        let mut stopping_since = None;
        let mut attempt = 0;
        loop {
            let body = || self.body(last);
            let posted = self.route.endpoint.post(key, &body, limits.response).await;
            let error = match posted {
                Ok(response) => return Ok(Some(response)),
                Err(PostError::Withdrawn) => return Ok(None),
                Err(error) => error,
            };
            if !error.is_transient() {
                return Err(backend_error(error.to_string()));
            }
            let is_last_attempt = tasks.is_stopping()
                && stopping_since.get_or_insert_with(Instant::now).elapsed() >= STOPPING_RETRY_MAX;
            if is_last_attempt || started_at.elapsed() >= limits.hold_time {
                return Err(backend_away(error.to_string()));
            }
            let pause = async {
                match &error {
                    PostError::Client(ClientError::CircuitOpen { left }) => {
                        let held = limits.hold_time.saturating_sub(started_at.elapsed());
                        tokio::time::sleep(held.min(*left)).await;
                    }
                    _ if attempt < limits.retries => back_off(attempt, BACKOFF_MAX).await,
                    _ => back_off(attempt.max(4), BACKOFF_MAX).await,
                }
            };
            let stopping_pause = async {
                tasks.stopping().await;
                tokio::time::sleep(STOPPING_PAUSE).await;
            };
            tokio::select! {
                () = pause => {}
                () = stopping_pause => {}
            }
            attempt += 1;
        }
    }

    /// Removes the acknowledged events from the queue, and carries out the response's actions.
    async fn handle(self: &Arc<Self>, response: BackendResponse, last: u64) -> Result<(), Failure> {
        let BackendResponse {
            ack,
            state,
            actions,
        } = response;
        let stalled_since = self.acknowledge(ack.unwrap_or(last), last, state)?;
        self.room.notify_waiters();
        self.apply(actions).await.map_err(backend_error)?;
        let Some(since) = stalled_since else {
            self.pause_for_own_events().await;
            return Ok(());
        };
        // The backend wants all events again.
        let hold_time = self.route.limits.hold_time;
        if since.elapsed() >= hold_time || self.route.services.tasks.is_stopping() {
            return Err(backend_away(format!(
                "the backend has acknowledged nothing for {hold_time:?}"
            )));
        }
        back_off(2, BACKOFF_MAX).await;
        Ok(())
    }

    /// Pauses if the backend has acknowledged only what came from its own responses, and this one
    /// has made more of it: nothing else bounds how fast such requests follow each other.
    async fn pause_for_own_events(&self) {
        let times = {
            let state = self.state.lock();
            match state.queue.bytes_of_responses() > 0 {
                true => state.own_events,
                false => 0,
            }
        };
        if times > 0 {
            tokio::select! {
                () = back_off(times - 1, BACKOFF_MAX) => {}
                () = self.executor.closed() => {}
            }
        }
    }

    /// Removes the events up to `ack` and keeps the backend's new state. Returns the time since
    /// which nothing was acknowledged.
    fn acknowledge(
        &self,
        ack: u64,
        last: u64,
        new_state: Option<Box<RawValue>>,
    ) -> Result<Option<Instant>, Failure> {
        let mut state = self.state.lock();
        let first = state.queue.first().unwrap_or(0);
        if ack > last || ack + 1 < first {
            return Err(backend_error(format!(
                "expected an ack from {} to {last}, found {ack}",
                first.saturating_sub(1)
            )));
        }
        let released = state.queue.release(ack);
        self.route.endpoint.backlog.release(released.bytes);
        if new_state.is_some() {
            state.connection_state = new_state;
        }
        if released.events > 0 {
            (state.stalled_since, state.redelivery) = (None, 0);
            let is_own = released.of_responses == released.events;
            state.own_events = if is_own { state.own_events + 1 } else { 0 };
        } else {
            state.stalled_since.get_or_insert_with(Instant::now);
            state.redelivery += 1;
        }
        Ok(state.stalled_since)
    }

    /// Drops the queued events and closes the socket. A request that waits for a slot is withdrawn,
    /// because its body can no longer be built.
    fn fail(&self, failure: &Failure) {
        let endpoint = &self.route.endpoint.settings.url.label;
        tracing::error!(%endpoint, id = self.id, "backend conversation failed: {}", failure.sentence);
        {
            let mut state = self.state.lock();
            state.phase = state.phase.fail();
            let released = state.queue.release(u64::MAX);
            self.route.endpoint.backlog.release(released.bytes);
        }
        self.room.notify_waiters();
        self.socket.end(Ending::of(failure.cause));
    }
}
