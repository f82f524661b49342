//! Watchdog: while a worker of the runtime is stuck, the service manager gets no sign of life.

use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use oneport::config::OptionErrors;
use oneport::gateway::Registry;
use oneport::http::{Failure, Request, Response, View, respond};
use oneport::server::{Loaded, Reload, Server};

use crate::support::Directory;

/// Tells the process that the test starts to serve, from this directory.
const MARK: &str = "ONEPORT_WATCHDOG_TEST";

const DEADLINE: Duration = Duration::from_millis(800);
const BLOCKED: Duration = Duration::from_secs(4);

/// Blocks its worker.
struct Blocking;

impl View for Blocking {
    type Options = ();

    fn new((): ()) -> Result<Self, OptionErrors> {
        Ok(Self)
    }

    async fn call(&self, _: Request) -> Result<Response, Failure> {
        std::thread::sleep(BLOCKED);
        Ok(respond(200, "text/plain", ""))
    }
}

/// A process that is killed at the end.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn stuck_worker_silences_the_watchdog_until_it_goes_on() {
    if let Some(directory) = env::var_os(MARK) {
        return serve(directory.as_ref());
    }
    let directory = Directory::new().with(
        "oneport.toml",
        "[server]\nbind = ['127.0.0.1:0']\n[[http.route]]\npath = '/'\nview = 'blocking'\n",
    );
    let notify = directory.path("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // Only a process of its own has an environment of its own.
    let program = env::current_exe().unwrap();
    let name = "watchdog::stuck_worker_silences_the_watchdog_until_it_goes_on";
    let child = Command::new(program)
        .args([name, "--exact", "--nocapture"])
        .env(MARK, directory.as_path())
        .env("NOTIFY_SOCKET", &notify)
        .env("WATCHDOG_USEC", DEADLINE.as_micros().to_string())
        .env_remove("WATCHDOG_PID")
        .spawn();
    let _server = Killed(child.unwrap());
    let hear = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).unwrap();
            if buffer[..length].starts_with(wanted.as_bytes()) {
                return Instant::now();
            }
        }
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("WATCHDOG=1");

    let address = std::fs::read_to_string(directory.path("address")).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let asked = Instant::now();
    let mut last = asked;
    let resumed = loop {
        let now = hear("WATCHDOG=1");
        if now - last > DEADLINE * 2 {
            break now;
        }
        last = now;
        assert!(asked.elapsed() < BLOCKED * 5, "never silent");
    };
    assert!(
        resumed - asked > BLOCKED - DEADLINE,
        "before the worker went on"
    );
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    hear("WATCHDOG=1");
}

fn serve(directory: &std::path::Path) {
    let reload = Reload {
        file: directory.join("oneport.toml"),
        registry: Registry::builtin().view::<Blocking>("blocking"),
        bind: Vec::new(),
        watch: false,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let Loaded { config, table, .. } = reload.load().unwrap();
        let server = Server::start(config, table).await.unwrap();
        let address = server.listeners().find_map(oneport::net::Listener::address);
        std::fs::write(directory.join("address"), address.unwrap().to_string()).unwrap();
        server.run(reload).await.unwrap();
    });
}
