//! LiveServer: a real server on its own port.

use std::net::SocketAddr;
use std::path::Path;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::config::{Bind, Config, Listen, Problems};
use crate::gateway::{Gateway, Registry, compile_draft};
use crate::server::{Drained, Server};
use crate::telemetry;

/// A real server on its own port, in the test's runtime.
///
/// ```
/// use oneport::testing::LiveServer;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let server = LiveServer::start("[[http.route]]\npath = '/'\nview = 'health'\n").await.unwrap();
/// assert!(server.url("/").starts_with("http://127.0.0.1:"));
/// assert_eq!(server.stop().await.cut_off, 0);
/// # });
/// ```
#[derive(Debug)]
pub struct LiveServer {
    address: SocketAddr,
    gateway: Gateway,
    stop: oneshot::Sender<()>,
    running: JoinSet<Drained>,
}

impl LiveServer {
    /// Starts a configuration with the built-in views and consumers.
    pub async fn start(text: &str) -> Result<Self, Problems> {
        Self::with(&Registry::builtin(), text).await
    }

    /// Starts a configuration with the views and consumers of a registry. The address in the file's
    /// first `bind` is ignored.
    pub async fn with(registry: &Registry, text: &str) -> Result<Self, Problems> {
        telemetry::start_metrics();
        let draft = Config::draft_of("test.toml", text, Path::new("."), &|_| None)?;
        let (table, _) = compile_draft(&draft, registry)?;
        let mut config = draft.config;
        let first = config.server.bind.first().cloned();
        let default = Listen::from(Bind::Tcp("127.0.0.1:0".to_owned()));
        config.server.bind = vec![Listen {
            address: default.address.clone(),
            ..first.unwrap_or(default)
        }];
        let server = match Server::start(config, table).await {
            Ok(server) => server,
            Err(error) => panic!("the server did not start: {error}"),
        };
        let Some(address) = server
            .listeners()
            .next()
            .and_then(crate::server::Listener::address)
        else {
            panic!("the server listens nowhere");
        };
        let gateway = server.gateway().clone();
        let (stop, stopped) = oneshot::channel();
        let mut running = JoinSet::new();
        running.spawn(server.run_until(async {
            let _ = stopped.await;
        }));
        Ok(Self {
            address,
            gateway,
            stop,
            running,
        })
    }

    /// Returns the listener's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the WebSocket URL of a path.
    #[must_use]
    pub fn websocket_url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// Returns the gateway, for its services and its open sockets.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Stops the server as SIGTERM does, and returns the outcome of the drain.
    pub async fn stop(mut self) -> Drained {
        let _ = self.stop.send(());
        match self.running.join_next().await {
            Some(Ok(drained)) => drained,
            _ => panic!("the server panicked"),
        }
    }
}
