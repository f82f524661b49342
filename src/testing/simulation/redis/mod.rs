//! Redis: one server in memory, with connections that can be slow, frozen or cut.
//!
//! It executes the layer's own scripts in a real Lua, so only the plain commands are imitated.
//! Every connection has its own delays, drawn from the seed: the reply to a command and the
//! messages of a subscription overtake each other as they do over two sockets.

mod data;
mod lua;
mod protocol;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::data::Data;
use self::lua::Scripts;
use self::protocol::{Reply, take_command};
use crate::net::Stream;

/// The bytes that a connection takes before its writer waits.
const PIPE_BYTES: usize = 1 << 20;

/// The time at which a simulation starts, in milliseconds.
const START: u64 = 1_900_000_000_000;

/// What a Redis has after it was away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keeps {
    /// All that it had confirmed.
    All,
    /// What it had at the last `save`.
    Saved,
    /// Nothing.
    Nothing,
}

/// A server in memory (cheap to clone).
#[derive(Clone)]
pub(super) struct Redis(Rc<Inner>);

struct Inner {
    state: Rc<RefCell<State>>,
    scripts: RefCell<Scripts>,
    /// Notified after each command, and after each change of a fault.
    changed: Notify,
    started: Instant,
    /// Whether commands are printed.
    is_traced: bool,
}

struct State {
    data: Data,
    saved: Data,
    connections: Vec<Rc<Connection>>,
    delays: fastrand::Rng,
    is_up: bool,
    is_frozen: bool,
    /// Processes whose connections are refused.
    cut: BTreeSet<usize>,
    /// Processes whose connections are silent.
    stalled: BTreeSet<usize>,
    /// Added to each delay.
    slowness: Duration,
}

/// One connection of a process.
struct Connection {
    process: usize,
    outgoing: RefCell<VecDeque<Vec<u8>>>,
    ready: Notify,
    closed: CancellationToken,
    channels: RefCell<BTreeSet<Vec<u8>>>,
    is_subscriber: Cell<bool>,
}

impl Redis {
    /// Starts a server and makes it the one behind all paths `/simulation/PROCESS` of this thread.
    /// Its tasks run in the current `LocalSet`.
    pub(super) fn start(seed: u64) -> Self {
        let state = Rc::new(RefCell::new(State {
            data: Data::default(),
            saved: Data::default(),
            connections: Vec::new(),
            delays: fastrand::Rng::with_seed(seed),
            is_up: true,
            is_frozen: false,
            cut: BTreeSet::new(),
            stalled: BTreeSet::new(),
            slowness: Duration::ZERO,
        }));
        let called = state.clone();
        let scripts = Scripts::new(Rc::new(move |command| {
            called.borrow_mut().execute(&command)
        }));
        let redis = Self(Rc::new(Inner {
            state,
            scripts: RefCell::new(scripts),
            changed: Notify::new(),
            started: Instant::now(),
            is_traced: std::env::var_os("ONEPORT_TRACE_REDIS").is_some(),
        }));
        let (accepted, mut accepting) = mpsc::unbounded_channel::<(usize, DuplexStream)>();
        let listener = redis.clone();
        crate::net::in_memory::set_connector(Some(Box::new(move |path: &Path| {
            let process = path.to_str()?.strip_prefix("/simulation/")?.parse().ok()?;
            Some(listener.connect(process, &accepted))
        })));
        let server = redis.clone();
        tokio::task::spawn_local(async move {
            while let Some((process, stream)) = accepting.recv().await {
                server.serve(process, stream);
            }
        });
        redis
    }

    // --- Faults ---------------------------------------------------------------------------------------------------------

    /// Ends the server: all connections close, and none is accepted.
    pub(super) fn stop(&self) {
        self.0.state.borrow_mut().is_up = false;
        self.0.scripts.borrow_mut().forget();
        self.close(|_| true);
    }

    /// Starts it again.
    pub(super) fn restart(&self, keeps: Keeps) {
        let mut state = self.0.state.borrow_mut();
        match keeps {
            Keeps::All => {}
            Keeps::Saved => state.data = state.saved.clone(),
            Keeps::Nothing => state.data.flush(),
        }
        state.is_up = true;
    }

    pub(super) fn is_up(&self) -> bool {
        self.0.state.borrow().is_up
    }

    /// FLUSHALL, sent by another program.
    pub(super) fn flush(&self) {
        self.0.state.borrow_mut().data.flush();
    }

    /// Writes the state to disk.
    pub(super) fn save(&self) {
        let mut state = self.0.state.borrow_mut();
        state.saved = state.data.clone();
    }

    /// Stops executing and replying, or goes on. Connections are still accepted.
    pub(super) fn set_frozen(&self, is_frozen: bool) {
        self.0.state.borrow_mut().is_frozen = is_frozen;
        self.0.changed.notify_waiters();
    }

    /// Adds to each delay.
    pub(super) fn set_slowness(&self, slowness: Duration) {
        self.0.state.borrow_mut().slowness = slowness;
    }

    /// Closes the connections of a process and refuses new ones, or accepts them again.
    pub(super) fn set_cut(&self, process: usize, is_cut: bool) {
        let mut state = self.0.state.borrow_mut();
        if is_cut {
            state.cut.insert(process);
        } else {
            state.cut.remove(&process);
        }
        drop(state);
        if is_cut {
            self.close(|connection| connection.process == process);
        }
    }

    /// Makes the connections of a process silent, or lets them go on.
    pub(super) fn set_stalled(&self, process: usize, is_stalled: bool) {
        let mut state = self.0.state.borrow_mut();
        if is_stalled {
            state.stalled.insert(process);
        } else {
            state.stalled.remove(&process);
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Closes the connections of a process that has died.
    pub(super) fn forget(&self, process: usize) {
        self.close(|connection| connection.process == process);
    }

    fn close(&self, is_closed: impl Fn(&Connection) -> bool) {
        let mut state = self.0.state.borrow_mut();
        state.connections.retain(|connection| {
            let closes = is_closed(connection);
            if closes {
                connection.closed.cancel();
            }
            !closes
        });
    }

    // --- Connections ----------------------------------------------------------------------------------------------------

    fn connect(
        &self,
        process: usize,
        accepted: &mpsc::UnboundedSender<(usize, DuplexStream)>,
    ) -> io::Result<Stream> {
        let state = self.0.state.borrow();
        if !state.is_up || state.cut.contains(&process) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let _ = accepted.send((process, server));
        Ok(Stream::boxed(client))
    }

    fn serve(&self, process: usize, stream: DuplexStream) {
        let mut state = self.0.state.borrow_mut();
        if !state.is_up || state.cut.contains(&process) {
            return; // since it was accepted
        }
        let connection = Rc::new(Connection {
            process,
            outgoing: RefCell::default(),
            ready: Notify::new(),
            closed: CancellationToken::new(),
            channels: RefCell::default(),
            is_subscriber: Cell::new(false),
        });
        state.connections.push(connection.clone());
        let (reading, writing) = tokio::io::split(stream);
        tokio::task::spawn_local(
            connection
                .clone()
                .until_closed(self.clone().read(connection.clone(), reading)),
        );
        tokio::task::spawn_local(
            connection
                .clone()
                .until_closed(self.clone().write(connection, writing)),
        );
    }

    /// Executes the commands of a connection, in their order.
    async fn read(self, connection: Rc<Connection>, mut stream: ReadHalf<DuplexStream>) {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        'open: while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..count]);
            self.delay(&connection).await;
            while let Some(command) = take_command(&mut bytes) {
                if !command[0].eq_ignore_ascii_case(b"BZPOPMIN") {
                    connection.push(&self.execute(&connection, &command));
                    continue;
                }
                let waiting = self.wait_for_member(&connection, &command);
                tokio::pin!(waiting);
                loop {
                    tokio::select! {
                        biased;
                        reply = &mut waiting => {
                            connection.push(&reply);
                            break;
                        }
                        more = stream.read(&mut buffer) => match more {
                            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
                            _ => break 'open, // the client is gone, and gets no message
                        },
                    }
                }
            }
        }
        self.close(|other| std::ptr::eq(other, &*connection));
    }

    /// Sends the replies and messages of a connection.
    async fn write(self, connection: Rc<Connection>, mut stream: WriteHalf<DuplexStream>) {
        loop {
            let next = connection.outgoing.borrow_mut().pop_front();
            let Some(mut next) = next else {
                connection.ready.notified().await;
                continue;
            };
            self.delay(&connection).await;
            // What has come meanwhile goes out with it.
            for more in connection.outgoing.borrow_mut().drain(..) {
                next.extend(more);
            }
            if stream.write_all(&next).await.is_err() {
                return;
            }
        }
    }

    /// Waits for a time that is drawn, and while the server or the connection is silent.
    async fn delay(&self, connection: &Connection) {
        let time = {
            let mut state = self.0.state.borrow_mut();
            let drawn = match state.delays.u8(..10) {
                0..=4 => 0,
                5..=7 => state.delays.u64(1..4),
                8 => state.delays.u64(1..12),
                _ => state.delays.u64(1..60),
            };
            state.slowness + Duration::from_millis(drawn)
        };
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        loop {
            let changed = self.0.changed.notified();
            {
                let state = self.0.state.borrow();
                if !state.is_frozen && !state.stalled.contains(&connection.process) {
                    return;
                }
            }
            changed.await;
        }
    }

    fn execute(&self, connection: &Rc<Connection>, command: &[Vec<u8>]) -> Reply {
        self.0.state.borrow_mut().data.now = START + millis(self.0.started.elapsed());
        let rest = &command[1..];
        let reply = match command[0].to_ascii_uppercase().as_slice() {
            b"SUBSCRIBE" => connection.subscribe(rest, true),
            b"UNSUBSCRIBE" => connection.subscribe(rest, false),
            b"PING" if connection.is_subscriber.get() => {
                Reply::Array(vec![Reply::bulk("pong"), Reply::bulk("")])
            }
            b"PING" => Reply::Status("PONG"),
            b"SELECT" | b"CLIENT" => Reply::Status("OK"),
            b"SCRIPT" => self.0.scripts.borrow_mut().load(&rest[1]),
            b"EVALSHA" => self.0.scripts.borrow().run(rest),
            _ => self.0.state.borrow_mut().execute(command),
        };
        self.0.changed.notify_waiters();
        if self.0.is_traced {
            self.trace(connection, command, &reply);
        }
        reply
    }

    /// Prints a command and its reply.
    fn trace(&self, connection: &Connection, command: &[Vec<u8>], reply: &Reply) {
        let words = command.iter().map(|word| {
            let word = String::from_utf8_lossy(word);
            word.chars().filter(|c| !c.is_control()).take(40).collect()
        });
        let words: Vec<String> = words.collect();
        let mut replied = Vec::new();
        reply.write(&mut replied);
        let replied = String::from_utf8_lossy(&replied).replace("\r\n", " ");
        let replied: String = replied.chars().take(80).collect();
        println!(
            "{:?} process {} {} => {replied}",
            self.0.started.elapsed(),
            connection.process,
            words.join(" ")
        );
    }

    /// BZPOPMIN with one key.
    async fn wait_for_member(&self, connection: &Rc<Connection>, command: &[Vec<u8>]) -> Reply {
        let seconds = std::str::from_utf8(&command[2]).unwrap().parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs_f64(seconds);
        let pop = vec![b"ZPOPMIN".to_vec(), command[1].clone()];
        loop {
            let changed = self.0.changed.notified();
            match self.execute_quietly(connection, &pop) {
                Reply::Array(mut popped) if !popped.is_empty() => {
                    if self.0.is_traced {
                        self.trace(connection, command, &Reply::Int(1));
                    }
                    popped.insert(0, Reply::bulk(command[1].clone()));
                    return Reply::Array(popped);
                }
                Reply::Error(error) => return Reply::Error(error),
                _ => {}
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Reply::Array(Vec::new()).nil_if_empty();
            }
        }
    }

    /// Executes a command that is repeated until it has an effect, without waking its own wait.
    fn execute_quietly(&self, connection: &Rc<Connection>, command: &[Vec<u8>]) -> Reply {
        let mut state = self.0.state.borrow_mut();
        if state.is_frozen || state.stalled.contains(&connection.process) {
            return Reply::Nil;
        }
        state.data.now = START + millis(self.0.started.elapsed());
        state.execute(command)
    }
}

impl State {
    fn execute(&mut self, command: &[Vec<u8>]) -> Reply {
        match command[0].to_ascii_uppercase().as_slice() {
            b"PUBLISH" => {
                let (channel, payload) = (&command[1], &command[2]);
                let message = Reply::Array(vec![
                    Reply::bulk("message"),
                    Reply::bulk(channel.clone()),
                    Reply::bulk(payload.clone()),
                ]);
                let mut reached = 0;
                for connection in self.subscribers(channel) {
                    connection.push(&message);
                    reached += 1;
                }
                Reply::Int(reached)
            }
            b"PUBSUB" => {
                let count = self.subscribers(&command[2]).count() as i64;
                Reply::Array(vec![Reply::bulk(command[2].clone()), Reply::Int(count)])
            }
            _ => match self.data.execute(command) {
                Some(reply) => reply,
                None => {
                    let command = command.iter().map(|word| String::from_utf8_lossy(word));
                    let command = command.collect::<Vec<_>>().join(" ");
                    panic!("the Redis in memory does not know this command yet: {command}")
                }
            },
        }
    }

    fn subscribers<'a>(&'a self, channel: &'a [u8]) -> impl Iterator<Item = &'a Rc<Connection>> {
        let connections = self.connections.iter();
        connections.filter(move |connection| connection.channels.borrow().contains(channel))
    }
}

impl Connection {
    fn push(&self, reply: &Reply) {
        let mut bytes = Vec::new();
        reply.write(&mut bytes);
        if !bytes.is_empty() {
            self.outgoing.borrow_mut().push_back(bytes);
            self.ready.notify_one();
        }
    }

    /// Sends one reply for each channel, the last one as the return value.
    fn subscribe(&self, channels: &[Vec<u8>], is_subscribed: bool) -> Reply {
        self.is_subscriber.set(true);
        let mut replies = Vec::new();
        for channel in channels {
            let mut all = self.channels.borrow_mut();
            if is_subscribed {
                all.insert(channel.clone());
            } else {
                all.remove(channel);
            }
            let word = if is_subscribed {
                "subscribe"
            } else {
                "unsubscribe"
            };
            let count = Reply::Int(all.len() as i64);
            replies.push(Reply::Array(vec![
                Reply::bulk(word),
                Reply::bulk(channel.clone()),
                count,
            ]));
        }
        let last = replies.pop().expect("a channel");
        replies.iter().for_each(|reply| self.push(reply));
        last
    }

    async fn until_closed(self: Rc<Self>, task: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => {}
            () = task => {}
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
