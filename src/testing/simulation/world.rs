//! World: processes, clients and a Redis that go through a schedule on a paused clock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::record::{Fault, Frame, Life, Record, Send, Visit};
use super::redis::{Keeps, Redis};
use super::schedule::{Action, CLIENTS, GROUPS, PATHS, Schedule, Step};
use crate::channels::{Event, GroupName};
use crate::config::LayerFormat;
use crate::tasks::Gate;
use crate::testing::{Application, Output, WebsocketCommunicator};

/// The lease and the timeout of every process.
const LEASE: Duration = Duration::from_secs(3);

/// How long everything is left alone after it was repaired: until the dead are removed, and all are
/// connected again.
const REPAIR_TIME: Duration = Duration::from_secs(10);

struct World {
    started: Instant,
    format: LayerFormat,
    redis: Redis,
    /// By place.
    processes: Vec<Option<Process>>,
    clients: Vec<Client>,
    sends: Arc<Mutex<Vec<Send>>>,
    visits: Vec<Rc<RefCell<Visit>>>,
    lives: Vec<Life>,
    faults: Vec<(Duration, Fault)>,
}

struct Process {
    /// Its number among all that ever ran.
    number: usize,
    app: Application,
    gate: Gate,
    publisher: mpsc::UnboundedSender<Vec<(Order, Duration)>>,
}

/// An event to send.
struct Order {
    group: usize,
    is_kept: bool,
}

#[derive(Default)]
struct Client {
    visit: Option<Rc<RefCell<Visit>>>,
    connection: Option<JoinHandle<()>>,
    asks: Option<mpsc::UnboundedSender<()>>,
    is_connected: bool,
}

/// Goes through a schedule, and returns what was seen. The same seed and schedule do the same
/// again.
pub(super) async fn run(schedule: &Schedule, seed: u64) -> Record {
    fastrand::seed(seed);
    let mut world = World {
        started: Instant::now(),
        format: schedule.format,
        redis: Redis::start(seed),
        processes: Vec::new(),
        clients: (0..CLIENTS).map(|_| Client::default()).collect(),
        sends: Arc::default(),
        visits: Vec::new(),
        lives: Vec::new(),
        faults: Vec::new(),
    };
    for _ in 0..schedule.processes {
        let process = world.start_process();
        world.processes.push(Some(process));
    }
    sleep(Duration::from_millis(schedule.start)).await;
    for Step(pause, action) in &schedule.steps {
        if *pause > 0 {
            sleep(Duration::from_millis(*pause)).await;
        }
        world.act(action);
    }
    world.finish().await
}

impl World {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn note(&mut self, fault: Fault) {
        self.faults.push((self.now(), fault));
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Connect { client, process } => self.connect(client, process, true),
            Action::ConnectAnew { client, process } => self.connect(client, process, false),
            Action::Disconnect { client } => self.disconnect(client),
            Action::Send {
                process,
                group,
                events,
                pause,
            } => {
                let pause = Duration::from_millis(pause);
                let orders = (0..events).map(|_| {
                    (
                        Order {
                            group,
                            is_kept: true,
                        },
                        pause,
                    )
                });
                self.publish(process, orders.collect());
            }
            Action::SendTransient { process, group } => {
                let order = Order {
                    group,
                    is_kept: false,
                };
                self.publish(process, vec![(order, Duration::ZERO)]);
            }
            Action::StopRedis => {
                self.note(Fault::Link);
                self.redis.stop();
            }
            Action::StartRedis(keeps) if !self.redis.is_up() => {
                self.note(if keeps == Keeps::All {
                    Fault::Link
                } else {
                    Fault::Loss
                });
                self.redis.restart(keeps);
            }
            Action::StartRedis(_) => {}
            Action::SaveRedis => self.redis.save(),
            Action::FlushRedis => {
                self.note(Fault::Flush);
                self.redis.flush();
            }
            Action::FreezeRedis | Action::ThawRedis => {
                self.note(Fault::Link);
                self.redis.set_frozen(matches!(action, Action::FreezeRedis));
            }
            Action::SlowRedis(millis) => {
                self.note(Fault::Link);
                self.redis.set_slowness(Duration::from_millis(millis));
            }
            Action::Cut { process } | Action::Stall { process } | Action::Mend { process } => {
                if let Some(number) = self.number(process) {
                    self.note(Fault::Link);
                    match action {
                        Action::Cut { .. } => self.redis.set_cut(number, true),
                        Action::Stall { .. } => self.redis.set_stalled(number, true),
                        _ => {
                            self.redis.set_cut(number, false);
                            self.redis.set_stalled(number, false);
                        }
                    }
                }
            }
            Action::Freeze { process } | Action::Thaw { process } => {
                if let Some(found) = &self.processes[process] {
                    match action {
                        Action::Freeze { .. } => found.gate.close(),
                        _ => found.gate.open(),
                    }
                    self.note(Fault::Pause);
                }
            }
            Action::Kill { process } => self.kill(process),
            Action::Start { process } => {
                if self.processes[process].is_none() {
                    let started = self.start_process();
                    self.processes[process] = Some(started);
                }
            }
        }
    }

    // --- Processes ------------------------------------------------------------------------------------------------------

    fn number(&self, place: usize) -> Option<usize> {
        self.processes[place].as_ref().map(|process| process.number)
    }

    fn start_process(&mut self) -> Process {
        let number = self.lives.len();
        self.lives.push(Life { died_at: None });
        let app = match Application::parse(&configuration(self.format, number)) {
            Ok(app) => app,
            Err(problems) => panic!("the configuration has problems: {problems:?}"),
        };
        let tasks = app.gateway().services().tasks.clone();
        let (publisher, orders) = mpsc::unbounded_channel();
        tasks.spawn(
            "publisher",
            publish(
                app.clone(),
                number,
                orders,
                self.sends.clone(),
                self.started,
            ),
        );
        Process {
            number,
            gate: tasks.gate().clone(),
            app,
            publisher,
        }
    }

    /// A process dies: it does nothing more, and its connections end.
    fn kill(&mut self, place: usize) {
        let Some(process) = self.processes[place].take() else {
            return;
        };
        self.note(Fault::Death);
        process.gate.close();
        self.lives[process.number].died_at = Some(self.now());
        for client in 0..CLIENTS {
            let is_there = |visit: &Rc<RefCell<Visit>>| visit.borrow().process == process.number;
            if self.clients[client].is_connected
                && self.clients[client].visit.as_ref().is_some_and(is_there)
            {
                self.disconnect(client);
            }
        }
        // What it has written before is executed all the same.
        let redis = self.redis.clone();
        tokio::task::spawn_local(async move {
            sleep(Duration::from_millis(100)).await;
            redis.forget(process.number);
            drop(process);
        });
    }

    fn publish(&self, place: usize, orders: Vec<(Order, Duration)>) {
        if let Some(process) = &self.processes[place] {
            let _ = process.publisher.send(orders);
        }
    }

    // --- Clients --------------------------------------------------------------------------------------------------------

    fn connect(&mut self, client: usize, place: usize, returns: bool) {
        self.disconnect(client);
        let Some(process) = &self.processes[place] else {
            return;
        };
        let before = self.clients[client].visit.as_ref().filter(|_| returns);
        let since = before.and_then(|before| before.borrow().last_position().map(str::to_owned));
        let visit = Rc::new(RefCell::new(Visit {
            client,
            process: process.number,
            since: since.clone(),
            begun_at: self.now(),
            opened_at: None,
            ended_at: None,
            was_ended_by_server: false,
            frames: Vec::new(),
        }));
        let (app, gate) = (process.app.clone(), process.gate.clone());
        let path = match since {
            Some(since) => format!("{}?since={since}", PATHS[client]),
            None => PATHS[client].to_owned(),
        };
        let (asks, asked) = mpsc::unbounded_channel();
        let connection = connection(visit.clone(), app, gate, path, asked, self.started);
        let connection = tokio::task::spawn_local(connection);
        self.visits.push(visit.clone());
        self.clients[client] = Client {
            visit: Some(visit),
            connection: Some(connection),
            asks: Some(asks),
            is_connected: true,
        };
    }

    fn disconnect(&mut self, client: usize) {
        let now = self.now();
        let client = &mut self.clients[client];
        if let Some(connection) = client.connection.take() {
            connection.abort();
        }
        if std::mem::take(&mut client.is_connected)
            && let Some(visit) = &client.visit
        {
            visit.borrow_mut().ended_at.get_or_insert(now);
        }
    }

    // --- The end --------------------------------------------------------------------------------------------------------

    /// Repairs everything, waits until it has settled, and has each process send a last event.
    async fn finish(self) -> Record {
        let repaired_at = self.now();
        if !self.redis.is_up() {
            self.redis.restart(Keeps::All);
        }
        self.redis.set_frozen(false);
        self.redis.set_slowness(Duration::ZERO);
        for process in self.processes.iter().flatten() {
            self.redis.set_cut(process.number, false);
            self.redis.set_stalled(process.number, false);
            process.gate.open();
        }
        sleep(REPAIR_TIME).await;
        for place in 0..self.processes.len() {
            let orders = (0..GROUPS.len()).map(|group| {
                (
                    Order {
                        group,
                        is_kept: true,
                    },
                    Duration::ZERO,
                )
            });
            self.publish(place, orders.collect());
        }
        sleep(Duration::from_secs(2)).await;
        for (client, path) in self.clients.iter().zip(PATHS) {
            let is_chat = ["/room/", "/talk/"].contains(&path);
            if let Some(asks) = client
                .asks
                .as_ref()
                .filter(|_| client.is_connected && is_chat)
            {
                let _ = asks.send(());
            }
        }
        sleep(Duration::from_secs(1)).await;
        let ended_at = self.now();
        crate::net::in_memory::set_connector(None);
        let sends = self.sends.lock().clone();
        Record {
            format: self.format,
            sends,
            visits: self
                .visits
                .iter()
                .map(|visit| visit.borrow().clone())
                .collect(),
            lives: self.lives,
            faults: self.faults,
            repaired_at,
            ended_at,
        }
    }
}

/// Sends the events that a process is asked to send, one after the other.
async fn publish(
    app: Application,
    process: usize,
    mut orders: mpsc::UnboundedReceiver<Vec<(Order, Duration)>>,
    sends: Arc<Mutex<Vec<Send>>>,
    started: Instant,
) {
    while let Some(orders) = orders.recv().await {
        for (order, pause) in orders {
            let group = GROUPS[order.group];
            let (at, n) = {
                let mut sends = sends.lock();
                let n = sends.len() as u64;
                sends.push(Send {
                    n,
                    process,
                    group,
                    is_kept: order.is_kept,
                    begun_at: started.elapsed(),
                    accepted_at: None,
                });
                (sends.len() - 1, n)
            };
            let name = GroupName::new(group).unwrap();
            let event = Event::new("sim.event", &json!({"n": n})).unwrap();
            let layer = &app.gateway().services().layer;
            let sent = match order.is_kept {
                true => layer.group_send(&name, event, None).await,
                false => layer.group_send_transient(&name, event).await,
            };
            if sent.is_ok() {
                sends.lock()[at].accepted_at = Some(started.elapsed());
            }
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }
}

/// A client's connection: reads all frames, and asks who is in the group on request.
async fn connection(
    visit: Rc<RefCell<Visit>>,
    app: Application,
    gate: Gate,
    path: String,
    mut asked: mpsc::UnboundedReceiver<()>,
    started: Instant,
) {
    let handshake = gate.hold(async move { WebsocketCommunicator::new(&path).open(&app).await });
    let mut socket = match handshake.await {
        Ok(socket) => socket,
        Err(response) => {
            let at = started.elapsed();
            let json = json!({"type": "refused", "status": response.status().as_u16()});
            let mut visit = visit.borrow_mut();
            visit.frames.push(Frame { at, json });
            visit.end(at);
            return;
        }
    };
    visit.borrow_mut().opened_at = Some(started.elapsed());
    loop {
        tokio::select! {
            biased;
            output = socket.client.read() => match output {
                Output::Message(message) => {
                    let json = serde_json::from_slice(message.as_bytes()).unwrap_or_default();
                    let at = started.elapsed();
                    visit.borrow_mut().frames.push(Frame { at, json });
                }
                Output::Close { .. } | Output::End => {
                    visit.borrow_mut().end(started.elapsed());
                    return;
                }
            },
            Some(()) = asked.recv() => socket.send_json(&json!({"type": "who"})).await,
        }
    }
}

fn configuration(format: LayerFormat, process: usize) -> String {
    let lease = LEASE.as_secs();
    format!(
        "
        [channel_layer]
        backend = 'redis+unix:///simulation/{process}'
        format = '{format}'
        timeout = '1s'
        lease = '{lease}s'
        [websocket]
        connect_timeout = '1h' # by another clock
        [session]
        store = 'memory'
        [auth]
        users = 'sqlite::memory:'
        [[websocket.route]]
        path = '/kept/'
        consumer = 'feed'
        middleware = []
        options = {{ groups = ['kept'], history = 1000, recover = true }}
        [[websocket.route]]
        path = '/short/'
        consumer = 'feed'
        middleware = []
        options = {{ groups = ['short'], history = 3, recover = true }}
        [[websocket.route]]
        path = '/live/'
        consumer = 'feed'
        middleware = []
        options = {{ groups = ['kept'] }}
        [[websocket.route]]
        path = '/room/'
        consumer = 'chat'
        middleware = []
        options = {{ group = 'room', history = 1000, recover = true, presence = true }}
        [[websocket.route]]
        path = '/bare/'
        consumer = 'feed'
        middleware = []
        options = {{ groups = ['bare'] }}
        [[websocket.route]]
        path = '/talk/'
        consumer = 'chat'
        middleware = []
        options = {{ group = 'bare', presence = true }}
        "
    )
}
