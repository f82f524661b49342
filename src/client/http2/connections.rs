//! Connections: those to one endpoint, and which of them has room for a request.
//!
//! A connection takes as many streams as the endpoint allows, at most [`STREAMS_MAX`]. When all are
//! full, another one is opened; a request waits while those that are being opened will have room
//! for it, or while there are [`CONNECTIONS_MAX`]. A connection that takes no more requests (the
//! endpoint goes away, its address is another one, it is idle) leaves the list at once; requests
//! that it serves keep it open.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use super::connection::UNSETTLED_STREAMS;
use crate::client::error::ClientError;

/// The most requests of one connection at a time, whatever the endpoint allows. They share its lock
/// and its task.
pub(super) const STREAMS_MAX: usize = 100;

/// The most connections to one endpoint, with those that only finish their requests.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection stays open without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long no further connection is opened after one could not be.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// The connections to one endpoint.
#[derive(Debug, Default)]
pub(in crate::client) struct Connections {
    state: Mutex<State>,
    /// Wakes requests that wait for a place.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: Vec<Connection>,
    /// The connections whose task runs.
    alive: usize,
    opening: usize,
    waiting: usize,
    next_id: u64,
    /// How many streams a new connection will probably allow.
    expected: usize,
    /// The last attempt to open a connection has failed.
    failed: Option<(Instant, ClientError)>,
    /// Counts [`Connections::retire`].
    generation: u64,
}

#[derive(Debug)]
struct Connection {
    id: u64,
    sender: SendRequest<Bytes>,
    /// The requests that have a place.
    streams: usize,
    streams_max: usize,
    /// Whether `streams_max` is the endpoint's own number.
    is_settled: bool,
    /// Whether a probe was not answered.
    is_silent: bool,
    used_at: Instant,
    in_use: Arc<()>,
}

/// The next step of a request.
pub(in crate::client) enum Next {
    /// It is sent.
    Send(Place),
    /// It opens a connection first.
    Open(Opening),
    /// It waits for a place, or for a connection.
    Wait(Waiting),
    /// The connection that it waited for could not be opened.
    Fail(ClientError),
}

/// A place among the streams of a connection, until it is dropped.
#[derive(Debug)]
pub(in crate::client) struct Place {
    connections: Arc<Connections>,
    connection: u64,
    /// Whether the connection had served others before, and had none when this one was taken.
    pub(super) was_idle: bool,
    pub(super) sender: SendRequest<Bytes>,
    in_use: Arc<()>,
}

/// A connection that is being opened. Dropping it lets another request try.
pub(in crate::client) struct Opening {
    connections: Arc<Connections>,
    generation: u64,
}

/// A request that waits, until it is dropped.
pub(in crate::client) struct Waiting {
    connections: Arc<Connections>,
    /// Whether a connection is being opened.
    pub(in crate::client) is_opening: bool,
}

impl Connections {
    /// Returns a future that completes when [`Self::next`] may return something else. It is made
    /// before that is called, so that no change is lost in between.
    pub(in crate::client) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Returns the next step of a request that began at an instant.
    pub(in crate::client) fn next(self: &Arc<Self>, began: Instant) -> Next {
        let connections = self.clone();
        let mut left = Vec::new(); // dropped without the lock
        let mut state = self.state.lock();
        while let Some(at) = state.open.iter().position(Connection::has_room) {
            let one = &mut state.open[at];
            if !one.takes_requests() {
                left.push(state.open.swap_remove(at));
                continue;
            }
            let was_idle = one.streams == 0;
            one.streams += 1;
            return Next::Send(Place {
                connections,
                connection: one.id,
                was_idle,
                sender: one.sender.clone(),
                in_use: one.in_use.clone(),
            });
        }
        let now = Instant::now();
        let has_failed = match &state.failed {
            // Those that waited for a failed attempt do not repeat it, one after the other.
            Some((at, error)) if *at > began && !state.may_have_room() && state.opening == 0 => {
                return Next::Fail(error.clone());
            }
            Some((at, _)) => now < *at + OPEN_AGAIN && state.may_have_room(),
            None => false,
        };
        // Connections that will have room soon, as far as known.
        let settling =
            |one: &&Connection| !one.is_silent && (!one.is_settled || one.streams_max == 0);
        let coming = state.opening + state.open.iter().filter(settling).count();
        let expected = match state.expected {
            0 => STREAMS_MAX,
            expected => expected,
        };
        let is_too_few = state.waiting >= coming * expected;
        if is_too_few && !has_failed && state.alive + state.opening < CONNECTIONS_MAX {
            return Next::Open(state.open(connections));
        }
        state.waiting += 1;
        let is_opening = state.opening > 0;
        Next::Wait(Waiting {
            connections,
            is_opening,
        })
    }

    /// Opens a connection, whether one is needed or not.
    pub(in crate::client) fn open(self: &Arc<Self>) -> Opening {
        self.state.lock().open(self.clone())
    }

    /// Sets the number of streams that the endpoint allows on a connection.
    pub(super) fn settle(&self, id: u64, streams_max: usize) {
        let streams_max = streams_max.min(STREAMS_MAX);
        let mut state = self.state.lock();
        if let Some(one) = state.open.iter_mut().find(|one| one.id == id) {
            one.streams_max = streams_max;
            one.is_settled = true;
            state.expected = streams_max.max(1);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Sets whether a connection is silent: then it gets no requests.
    pub(super) fn set_silent(&self, id: u64, is_silent: bool) {
        let mut state = self.state.lock();
        let Some(one) = state.open.iter_mut().find(|one| one.id == id) else {
            return;
        };
        if std::mem::replace(&mut one.is_silent, is_silent) != is_silent {
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// Returns whether a connection has requests. One that has had none for a while is closed.
    pub(super) fn keep(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let Some(at) = state.open.iter().position(|one| one.id == id) else {
            return true; // it finishes its requests
        };
        let one = &state.open[at];
        if one.streams > 0 {
            return true;
        }
        let expired = one.used_at.elapsed() >= IDLE_TIMEOUT;
        let closed = expired.then(|| state.open.swap_remove(at));
        drop(state);
        drop(closed); // without the lock
        false
    }

    /// A connection takes no more requests.
    fn leave(&self, id: u64) {
        let mut state = self.state.lock();
        let at = state.open.iter().position(|one| one.id == id);
        let left = at.map(|at| state.open.swap_remove(at));
        drop(state);
        drop(left); // without the lock
        self.changed.notify_waiters();
    }

    /// The task of a connection has ended.
    pub(super) fn ended(&self, id: u64) {
        self.state.lock().alive -= 1;
        self.leave(id);
    }

    /// Sends no more requests over the connections that are open, and over those that are being
    /// opened.
    pub(in crate::client) fn retire(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        let left = std::mem::take(&mut state.open);
        drop(state);
        drop(left); // without the lock
        self.changed.notify_waiters();
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        !self.is_silent && self.streams < self.streams_max
    }

    /// Returns false once the endpoint goes away, or the connection has failed: its task may not
    /// know yet, and it lives as long as it has requests.
    fn takes_requests(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop()); // never pending: no request waits in it
        !matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }
}

impl State {
    /// Returns whether there is a connection that has room, or will have.
    fn may_have_room(&self) -> bool {
        self.open.iter().any(|one| !one.is_silent)
    }

    fn open(&mut self, connections: Arc<Connections>) -> Opening {
        self.opening += 1;
        Opening {
            connections,
            generation: self.generation,
        }
    }
}

impl Opening {
    /// Adds the connection; returns the place of the request that has opened it.
    pub(super) fn opened(&self, sender: SendRequest<Bytes>) -> (Place, Weak<Connections>) {
        let in_use = Arc::new(());
        let mut state = self.connections.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.alive += 1;
        state.failed = None;
        if state.generation == self.generation {
            state.open.push(Connection {
                id,
                sender: sender.clone(),
                streams: 1,
                streams_max: UNSETTLED_STREAMS,
                is_settled: false,
                is_silent: false,
                used_at: Instant::now(),
                in_use: in_use.clone(),
            });
        }
        drop(state);
        let place = Place {
            connections: self.connections.clone(),
            connection: id,
            was_idle: false,
            sender,
            in_use,
        };
        (place, Arc::downgrade(&self.connections))
    }

    /// Notes that the connection could not be opened. Returns whether the request may wait for a
    /// place on another one.
    pub(in crate::client) fn failed(&self, error: &ClientError) -> bool {
        let mut state = self.connections.state.lock();
        state.failed = Some((Instant::now(), error.clone()));
        state.may_have_room()
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.connections.state.lock().opening -= 1;
        self.connections.changed.notify_waiters();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.connections.state.lock().waiting -= 1;
    }
}

impl Place {
    /// Returns what is alive while the connection is in the list, or has requests.
    pub(super) fn in_use(&self) -> Weak<()> {
        Arc::downgrade(&self.in_use)
    }

    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    /// The connection takes no more requests.
    pub(super) fn leave_connection(&self) {
        self.connections.leave(self.connection);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.connections.state.lock();
        let is_awaited = state.waiting > 0;
        let own = |one: &&mut Connection| one.id == self.connection;
        if let Some(one) = state.open.iter_mut().find(own) {
            one.streams -= 1;
            one.used_at = Instant::now();
        }
        drop(state);
        if is_awaited {
            self.connections.changed.notify_one();
        }
    }
}
