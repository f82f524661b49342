//! Set: the servers of an upstream, with what is known of them.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::{Method, Request, Response, header};
use http_body::Body as _;
use metrics::counter;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::balance::{Balance, rank};
use super::checks::UpstreamGauges;
use super::health::Availability;
use super::options::UpstreamOptions;
use super::server::{Active, Failed, Place, Server};
use super::server_url::ServerUrl;
use super::{Affinity, Tunnel, UpstreamBody, UpstreamError, checks, lookups};
use crate::client::{EndsAt, RequestBody};
use crate::clock::Clock;
use crate::config::OptionErrors;
use crate::tasks::Tasks;

/// The servers of an upstream. Upstreams with equal options share one, so that a reload of the file
/// keeps what is known.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) options: UpstreamOptions,
    /// Of the certificates' files, when they were read.
    stamps: Vec<Option<(SystemTime, u64)>>,
    pub(super) urls: Vec<ServerUrl>,
    balance: Balance,
    /// In the order of their URLs.
    servers: ArcSwap<Vec<Arc<Server>>>,
    /// The next server of a round.
    next: AtomicUsize,
    /// Cancelled when the set is dropped: its tasks end.
    pub(super) dropped: CancellationToken,
    /// Of each URL, once its tasks run. They end with the set.
    pub(super) gauges: OnceLock<Vec<UpstreamGauges>>,
}

impl Drop for Set {
    fn drop(&mut self) {
        self.dropped.cancel();
    }
}

/// The sets in use, by their options.
#[derive(Debug, Default)]
pub(super) struct Sets(Mutex<HashMap<Key, Weak<Set>>>);

/// The options, and the stamps of the files they name: a renewed certificate is another one.
type Key = (UpstreamOptions, Vec<Option<(SystemTime, u64)>>);

/// The parts of the server that a set uses.
#[derive(Clone, Debug, Default)]
pub(super) struct Runtime {
    pub(super) tasks: Tasks,
    pub(super) clock: Clock,
}

impl Set {
    pub(super) fn new(options: &UpstreamOptions) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        let balance = options.validate(&mut errors);
        let stamps = options.tls.files().map(stamp).collect();
        let mut urls = Vec::new();
        for (index, url) in options.upstream.iter().enumerate() {
            let key = format!("upstream[{index}]");
            urls.extend(ServerUrl::parse(&url.0, &options.tls, &key, &mut errors));
        }
        let servers = urls.iter().map(|url| Server::new(url, None, options));
        let servers: Vec<_> = servers.map(Arc::new).collect();
        mark_only(&servers);
        errors.into_result(Self {
            options: options.clone(),
            stamps,
            urls,
            balance,
            servers: ArcSwap::from_pointee(servers),
            next: AtomicUsize::new(0),
            dropped: CancellationToken::new(),
            gauges: OnceLock::new(),
        })
    }

    /// Starts the tasks of the set, or returns the set with equal options that runs already.
    pub(super) fn start(self: &Arc<Self>, runtime: &Runtime, sets: &Sets) -> Arc<Self> {
        let mut sets = sets.0.lock();
        let key = (self.options.clone(), self.stamps.clone());
        if let Some(running) = sets.get(&key).and_then(Weak::upgrade) {
            return running;
        }
        sets.retain(|_, set| set.strong_count() > 0);
        sets.insert(key, Arc::downgrade(self));
        drop(sets);
        for server in self.servers.load().iter() {
            server.start(runtime);
        }
        if !self.options.tls.verify {
            tracing::warn!(
                upstream = ?self.urls.iter().map(|url| &*url.text).collect::<Vec<_>>(),
                "tls.verify = false: certificates of the upstream are not checked"
            );
        }
        lookups::start(self, runtime);
        checks::start(self, &runtime.tasks);
        self.clone()
    }

    pub(super) fn servers(&self) -> Arc<Vec<Arc<Server>>> {
        self.servers.load_full()
    }

    /// The name of a URL has other addresses: its servers send no more requests over connections to
    /// those before.
    pub(super) fn retire_connections(&self, url: &ServerUrl) {
        for server in self.servers().iter() {
            if server.url == url.text && server.address.is_none() {
                server.retire_connections();
            }
        }
    }

    /// Replaces the servers of a URL by those at its addresses. Servers that stay keep their state;
    /// requests to those that leave are finished.
    pub(super) fn set_addresses(&self, url: &ServerUrl, addresses: &[IpAddr], runtime: &Runtime) {
        let before = self.servers();
        let is_own = |server: &&Arc<Server>| server.url == url.text;
        let mut after = Vec::new();
        for one in &self.urls {
            if one.text != url.text {
                let others = before.iter().filter(|server| server.url == one.text);
                after.extend(others.cloned());
                continue;
            }
            // Without addresses of its own, the name is one server.
            let addresses = addresses.iter().copied().map(Some);
            let one_server = (addresses.len() == 0).then_some(None);
            for address in addresses.chain(one_server) {
                let mut own = before.iter().filter(is_own);
                let known = own.find(|server| server.address == address);
                after.push(known.cloned().unwrap_or_else(|| {
                    let server = Server::new(url, address, &self.options);
                    server.start(runtime);
                    Arc::new(server)
                }));
            }
        }
        mark_only(&after);
        self.servers.store(Arc::new(after));
    }

    /// Begins an attempt: the first one, or another after a failure, which is counted.
    fn attempt(
        &self,
        affinity: &Affinity<'_>,
        retries: &mut Retries,
        place: Place,
    ) -> Result<Active, UpstreamError> {
        let chosen = self.choose(affinity, &retries.tried, place);
        match (chosen, retries.last.take()) {
            (Some(active), None) => Ok(active),
            (Some(active), Some((failed, _))) => {
                let upstream = failed.url.to_string();
                counter!("oneport_upstream_retries_total", "upstream" => upstream).increment(1);
                Ok(active)
            }
            (None, last) => Err(last.map_or(UpstreamError::NoServer, |(_, error)| error)),
        }
    }

    /// Chooses a server that has not been tried yet.
    fn choose(
        &self,
        affinity: &Affinity<'_>,
        tried: &[Arc<Server>],
        place: Place,
    ) -> Option<Active> {
        let servers = self.servers.load();
        let now = Instant::now();
        let is_new = |server: &Arc<Server>| !tried.iter().any(|one| Arc::ptr_eq(one, server));
        if let ([server], true) = (servers.as_slice(), tried.is_empty()) {
            // The only server gets every request: a pause would only refuse what might be answered.
            let is_down = server.health.availability(now) == Availability::Down;
            return (!is_down).then(|| server.begin_anyway(false));
        }
        let new = || servers.iter().filter(|server| is_new(server));
        let chosen = match self.key(affinity) {
            Some(key) => {
                let mut ranked: Vec<_> = new().map(|one| (rank(key, &one.name), one)).collect();
                ranked.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
                ranked.iter().find_map(|(_, server)| server.begin(now))
            }
            None => {
                let first = self.next.fetch_add(1, Ordering::Relaxed) % servers.len().max(1);
                let (before, from) = servers.split_at(first);
                let round = || from.iter().chain(before).filter(|server| is_new(server));
                if self.balance == Balance::LeastConnections {
                    let mut by_load: Vec<_> = round().collect();
                    by_load.sort_by_key(|server| server.active());
                    by_load.iter().find_map(|server| server.begin(now))
                } else {
                    // A server that is full is passed over while another one has room.
                    let with_room = round().filter(|server| server.has_room(place));
                    let chosen = with_room.into_iter().find_map(|server| server.begin(now));
                    chosen.or_else(|| round().find_map(|server| server.begin(now)))
                }
            }
        };
        // All are out. Those that were paused may work again: the one that is due first is tried.
        chosen.or_else(|| {
            let paused = new().filter_map(|server| match server.health.availability(now) {
                Availability::Paused(until) => Some((until, server)),
                _ => None,
            });
            let (_, server) = paused.min_by_key(|(until, _)| *until)?;
            Some(server.begin_anyway(false))
        })
    }

    fn key(&self, affinity: &Affinity<'_>) -> Option<u64> {
        match &self.balance {
            Balance::Hash(key) => key.hash(affinity),
            Balance::RoundRobin | Balance::LeastConnections => None,
        }
    }

    #[expect(
        clippy::manual_async_fn,
        reason = "the future of an async fn would hold the request twice"
    )]
    pub(super) fn send(
        &self,
        affinity: &Affinity<'_>,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<UpstreamBody>, UpstreamError>> + Send {
        async move {
            let ends_at = self.ends_at();
            let copy = Copy::of(&request);
            let has_host = request.headers().contains_key(header::HOST);
            let Some(active) = self.choose(affinity, &[], Place::Request) else {
                return Err(UpstreamError::NoServer);
            };
            let server = active.server.clone();
            match active.send(request, ends_at).await {
                Ok(response) => Ok(response),
                // Boxed, so that the future of every other request is smaller.
                Err(failed) => {
                    let retries = Retries::new(self.options.retries, ends_at, has_host);
                    Box::pin(self.send_again(affinity, (server, failed), copy, retries)).await
                }
            }
        }
    }

    /// Sends a request again as long as that is allowed.
    async fn send_again(
        &self,
        affinity: &Affinity<'_>,
        (mut server, mut failed): (Arc<Server>, Failed),
        copy: Option<Copy>,
        mut retries: Retries,
    ) -> Result<Response<UpstreamBody>, UpstreamError> {
        loop {
            let request = retries.again(server, failed, copy.as_ref())?;
            let active = self.attempt(affinity, &mut retries, Place::Request)?;
            server = active.server.clone();
            match active.send(request, retries.ends_at).await {
                Ok(response) => return Ok(response),
                Err(again) => failed = again,
            }
        }
    }

    fn ends_at(&self) -> Option<EndsAt> {
        let total = self.options.total_timeout;
        total.map(|total| EndsAt::after(total.0))
    }

    pub(super) async fn open_tunnel(
        &self,
        affinity: &Affinity<'_>,
        request: Request<()>,
    ) -> Result<Tunnel, UpstreamError> {
        let mut request = request.map(|()| RequestBody::empty());
        let ends_at = self.ends_at();
        let has_host = request.headers().contains_key(header::HOST);
        let mut retries = Retries::new(self.options.retries, ends_at, has_host);
        loop {
            let active = self.attempt(affinity, &mut retries, Place::Tunnel)?;
            let server = active.server.clone();
            match active.open_tunnel(request, ends_at).await {
                Ok(tunnel) => return Ok(tunnel),
                Err(failed) => request = retries.again(server, failed, None)?,
            }
        }
    }
}

fn mark_only(servers: &[Arc<Server>]) {
    for server in servers {
        server.set_only(servers.len() == 1);
    }
}

/// Returns the time of a file's last change, and its length.
fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = file.metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// The attempts of one request.
struct Retries {
    left: u32,
    ends_at: Option<EndsAt>,
    /// The servers that could not be reached.
    tried: Vec<Arc<Server>>,
    /// The last attempt's server and failure, until there is another attempt.
    last: Option<(Arc<Server>, UpstreamError)>,
    /// Whether the request has a `Host` of its own. Without one, each server gets its own name.
    has_host: bool,
}

impl Retries {
    fn new(left: u32, ends_at: Option<EndsAt>, has_host: bool) -> Self {
        Self {
            left,
            ends_at,
            tried: Vec::new(),
            last: None,
            has_host,
        }
    }

    /// Returns the request to send again. Only two kinds of failure allow that: no byte of the
    /// request was written; or its connection was idle before and was closed without a byte of a
    /// response, and the request is safe to repeat.
    fn again(
        &mut self,
        server: Arc<Server>,
        failed: Failed,
        copy: Option<&Copy>,
    ) -> Result<Request<RequestBody>, UpstreamError> {
        let is_over = self.ends_at.is_some_and(EndsAt::has_passed);
        if self.left == 0 || is_over {
            return Err(failed.error);
        }
        let mut request = match (failed.request, copy) {
            (Some(unsent), _) => unsent,
            (None, Some(copy)) if failed.is_stale => copy.request(),
            _ => return Err(failed.error),
        };
        if !self.has_host {
            request.headers_mut().remove(header::HOST); // that of the last server
        }
        self.left -= 1;
        if !failed.is_stale {
            self.tried.push(server.clone());
        }
        self.last = Some((server, failed.error));
        Ok(request)
    }
}

/// A copy of the head of a request without a body whose method is idempotent (RFC 9110 §9.2.2): it
/// may be sent again.
struct Copy(http::request::Parts);

impl Copy {
    fn of(request: &Request<RequestBody>) -> Option<Self> {
        let is_idempotent = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE
        );
        if !is_idempotent || !request.body().is_end_stream() {
            return None;
        }
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        head.headers_mut().clone_from(request.headers());
        head.extensions_mut().clone_from(request.extensions());
        Some(Self(head.into_parts().0))
    }

    fn request(&self) -> Request<RequestBody> {
        Request::from_parts(self.0.clone(), RequestBody::empty())
    }
}
