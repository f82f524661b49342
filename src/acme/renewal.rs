//! Renewal: the task that keeps the certificates of all domains valid.
//!
//! Each domain has a certificate of its own, so that one whose name leads elsewhere does not keep
//! the others from being renewed. The state of a domain:
//!
//! ```text
//!            start, another process has stored a certificate
//!                               │
//!                               ▼
//!        ┌── cached, good ─── load ─── none, broken, expired ──┐
//!        ▼                      ▲                              ▼
//!     served ── renew_at ───────┼───────────────────────────► due   (an old one is still served)
//!        ▲                      │                              │ retry_at has passed
//!        │                      └── another process has it ─── lock
//!        │                                                     │
//!        └── stored, served ◄── issued ──────────────────── ordering
//!                                                              │ failed
//!                               retry_at ◄── 1 min, doubled up to a day
//! ```
//!
//! - `renew_at` is two thirds of the lifetime plus a little at random, or within the window that
//!   the CA suggests (RFC 9773), as far as it leaves a tenth of the lifetime.
//! - The failures of a domain are in the cache: neither a restart nor another process begins at one
//!   minute again. A reload ends the wait, unless the CA itself has asked for it.
//! - Orders follow one another, those whose last one failed at the end: each may take ten minutes.
//! - The cache is polled once a second, during an order too, which costs two `stat` calls: a process
//!   sees there what the others have stored, challenges included.
//! - A certificate that was issued but cannot be stored is served, and stored later.
//! - A certificate whose file was removed is served, and replaced by a new one at once.

mod cached;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::counter;
use tokio::task::spawn_blocking;

use super::authority::{Authority, ChallengeKind, Issued, OrderError, OrderRequest};
use super::cache::{Cache, Failures};
use super::challenges::Responder;
use super::domain::{ASK_EVERY, Domain, Served, parse, shown};
use super::schedule;
use crate::file_stamp::FileStamp;
use crate::net::{Certificate, Certificates};

/// How often the cache is polled.
pub(super) const POLL: Duration = Duration::from_secs(1);

/// The longest time of one order. The lock ends a little later.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long the lock may outlast the order.
const LOCK_GRACE: Duration = Duration::from_secs(60);

/// How often a certificate that could not be stored is stored again, and how long an order waits for
/// a cache that can be written.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The longest time of one question to the CA about the window of a certificate.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);

/// What a renewal works with.
pub(super) struct Settings<A> {
    pub(super) authority: Arc<A>,
    pub(super) cache: Cache,
    pub(super) domains: Vec<String>,
    /// The challenges to use, the best first.
    pub(super) kinds: Vec<ChallengeKind>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) responder: Responder,
    /// Returns the time; a test has its own.
    pub(super) now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

/// Keeps the certificates of all domains valid.
pub(super) struct Renewal<A> {
    settings: Settings<A>,
    domains: BTreeMap<String, Domain>,
    /// The domains that were ordered for since none was due: each has its turn.
    ordered: BTreeSet<String>,
    seen: Option<Seen>,
    /// When the first of the challenges of others becomes too old.
    challenges_until: Option<SystemTime>,
}

/// The state of the cache at the last poll.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    files: Option<FileStamp>,
    challenges: Option<FileStamp>,
}

impl<A: Authority> Renewal<A> {
    /// Begins with what an earlier renewal serves: other settings are no reason to serve nothing.
    pub(super) fn new(settings: Settings<A>, earlier: Option<Self>) -> Self {
        // The name of a CA's directory in the cache.
        let is_same_ca = earlier.as_ref().is_some_and(|earlier| {
            earlier.settings.cache.path().file_name() == settings.cache.path().file_name()
        });
        let mut earlier = earlier.map(|earlier| earlier.domains).unwrap_or_default();
        let domains = settings.domains.iter().map(|name| {
            let before = earlier.remove(name).unwrap_or_default();
            let domain = Domain {
                served: before.served,
                unsaved: before.unsaved.filter(|_| is_same_ca),
                failed_kind: before.failed_kind,
                ..Domain::default()
            };
            (name.clone(), domain)
        });
        Self {
            domains: domains.collect(),
            settings,
            ordered: BTreeSet::new(),
            seen: None,
            challenges_until: None,
        }
    }

    fn now(&self) -> SystemTime {
        (self.settings.now)()
    }

    /// Ends the waits after failures, except those that the CA asked for.
    pub(super) fn retry_now(&mut self) {
        for domain in self.domains.values_mut() {
            if !domain.failures.is_asked {
                domain.failures.retry_at = 0;
            }
        }
    }

    /// Does what is due: stores certificates, and places one order, or else asks the CA about one
    /// certificate: one that does not answer keeps no order waiting. Returns whether it has ordered.
    pub(super) async fn renew(&mut self) -> bool {
        let names: Vec<String> = self.domains.keys().cloned().collect();
        for name in &names {
            self.save(name).await;
        }
        if let Some(name) = self.next_order() {
            self.order(&name).await;
            self.ordered.insert(name);
            return true;
        }
        self.ordered.clear();
        if let Some(name) = self.next_question() {
            self.ask(&name).await;
        }
        false
    }

    /// Returns the domain to order for: one whose order has not failed before one whose order has,
    /// and of those the one that waits longest. An order may take ten minutes.
    fn next_order(&self) -> Option<String> {
        self.domains
            .iter()
            .filter(|(name, _)| !self.ordered.contains(*name) && self.may_order(name))
            .min_by_key(|(_, domain)| (domain.failures.count > 0, domain.failures.retry_at))
            .map(|(name, _)| name.clone())
    }

    /// Returns the domain to ask the CA about, that with the longest wait first.
    fn next_question(&self) -> Option<String> {
        let now = self.now();
        self.domains
            .iter()
            .filter_map(|(name, domain)| Some((domain.served.as_ref()?.ask_at, name)))
            .filter(|(ask_at, _)| *ask_at <= now)
            .min()
            .map(|(_, name)| name.clone())
    }

    /// Waits for an answer of the CA. Meanwhile the cache is polled: other processes have challenges
    /// to answer, and certificates to serve. `None` after `timeout`.
    async fn waiting<T>(
        &mut self,
        timeout: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let mut answer = pin!(answer);
        // The deadline is around the polls too: the file system of the cache may not answer.
        let waiting = async {
            loop {
                tokio::select! {
                    answered = &mut answer => return answered,
                    () = tokio::time::sleep(POLL) => self.poll().await,
                }
            }
        };
        tokio::time::timeout(timeout, waiting).await.ok()
    }

    /// Passes all certificates to the listeners.
    fn serve(&self) {
        let served = self
            .domains
            .values()
            .filter_map(|domain| domain.served.as_ref())
            .map(|served| served.certificate.clone());
        self.settings.certificates.set_obtained(served.collect());
    }

    fn may_order(&self, name: &str) -> bool {
        let now = self.now();
        let is_due = |domain: &Domain| domain.is_due(now) && !domain.is_waiting(now);
        self.domains.get(name).is_some_and(is_due) && !self.settings.certificates.has_file_for(name)
    }

    /// Asks the CA when to renew a certificate.
    async fn ask(&mut self, name: &str) {
        let Some(pem) = self.served(name).map(|served| served.pem.clone()) else {
            return;
        };
        let (authority, asked) = (self.settings.authority.clone(), pem.clone());
        let asking = async move { authority.renewal_window(asked.as_bytes()).await };
        let answer = self.waiting(ASK_TIMEOUT, asking).await;
        let now = self.now();
        // The poll may have found another certificate meanwhile.
        let Some(served) = self.served(name).filter(|served| served.pem == pem) else {
            return;
        };
        let again_after = match answer {
            Some(Ok(Some(found))) => {
                let lifetime = served.certificate.facts().lifetime();
                served.renew_at =
                    schedule::renew_in_window(&found.window, &lifetime, served.jitter);
                tracing::debug!(domain = name, renew_at = %shown(served.renew_at), "the CA suggests when to renew");
                found.again_after
            }
            Some(Ok(None)) => ASK_EVERY.end,
            Some(Err(error)) => {
                tracing::debug!(domain = name, %error, "the CA does not say when to renew");
                ASK_EVERY.start
            }
            None => ASK_EVERY.start,
        };
        served.ask_at = now + again_after.clamp(ASK_EVERY.start, ASK_EVERY.end);
    }

    fn served(&mut self, name: &str) -> Option<&mut Served> {
        self.domains.get_mut(name)?.served.as_mut()
    }

    /// Orders a certificate, unless another process does.
    async fn order(&mut self, name: &str) {
        let now = self.now();
        let cache = self.settings.cache.clone();
        let until = now + ORDER_TIMEOUT + LOCK_GRACE;
        let locked = spawn_blocking(move || {
            let lock = cache.lock(now, until)?;
            if lock.is_some() {
                cache.clean(now)?;
                // A certificate that cannot be stored is one order of the CA's limit each time.
                cache.check_room()?;
            }
            Ok::<_, std::io::Error>(lock)
        });
        let lock = match locked.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(Some(lock)) => lock,
            Ok(None) => {
                tracing::debug!(domain = name, "another process orders");
                return;
            }
            Err(error) => return self.postpone(name, &error),
        };
        // Race: another process may have stored a certificate, or failed, before the lock was free.
        if self.load(name).await {
            self.serve();
        }
        if self.may_order(name) {
            let Some(domain) = self.domains.get(name) else {
                return;
            };
            let mut kinds = self.settings.kinds.clone();
            if domain.failed_kind == kinds.first().copied() {
                kinds.reverse();
            }
            let request = OrderRequest {
                domain: name.to_owned(),
                kinds,
                replaces: domain
                    .served
                    .as_ref()
                    .map(|served| served.pem.as_bytes().to_vec()),
            };
            tracing::info!(domain = name, "ordering a certificate");
            let authority = self.settings.authority.clone();
            let order = async move { authority.order(request).await };
            let late = || {
                let seconds = ORDER_TIMEOUT.as_secs();
                Err(OrderError::new(format!(
                    "the order has not ended within {seconds} s"
                )))
            };
            let ordered = self.waiting(ORDER_TIMEOUT, order).await;
            let ordered = ordered.unwrap_or_else(late);
            let parsed = ordered.and_then(|issued| match parse(name, &issued.pem) {
                Ok(certificate) => Ok((issued, certificate)),
                Err(error) => Err(OrderError::new(format!("the CA has issued: {error}"))),
            });
            match parsed {
                Ok((issued, certificate)) => self.succeed(name, issued, certificate).await,
                Err(error) => self.fail(name, &error).await,
            }
        }
        drop(lock);
    }

    async fn succeed(&mut self, name: &str, issued: Issued, certificate: Certificate) {
        counter!("oneport_acme_orders_total", "outcome" => "issued").increment(1);
        let served = Served::new(certificate, &issued.pem, self.now());
        tracing::info!(
            domain = name,
            until = %shown(served.certificate.facts().not_after),
            renew_at = %shown(served.renew_at),
            "obtained a certificate"
        );
        if let Some(domain) = self.domains.get_mut(name) {
            domain.served = Some(served);
            domain.failures = Failures::default();
        }
        self.serve();
        self.store(name, issued).await;
    }

    /// Waits a minute because the cache cannot be written. The CA has not been asked: this is no
    /// failure of an order.
    fn postpone(&mut self, name: &str, error: &std::io::Error) {
        counter!("oneport_acme_orders_total", "outcome" => "failed").increment(1);
        let now = self.now();
        let Some(domain) = self.domains.get_mut(name) else {
            return;
        };
        let retry_at = (now + SAVE_EVERY).duration_since(UNIX_EPOCH);
        domain.failures.retry_at = retry_at.unwrap_or_default().as_secs();
        tracing::error!(
            domain = name,
            error = format!(
                "cannot write to {}: {error}",
                self.settings.cache.path().display()
            ),
            retry_seconds = SAVE_EVERY.as_secs(),
            served_until = domain.served_until(),
            "cannot obtain a certificate"
        );
    }

    async fn fail(&mut self, name: &str, error: &OrderError) {
        counter!("oneport_acme_orders_total", "outcome" => "failed").increment(1);
        let now = self.now();
        let Some(domain) = self.domains.get_mut(name) else {
            return;
        };
        let count = domain.failures.count.saturating_add(1);
        let delay = schedule::retry_after(count, error.retry_after, fastrand::f64());
        let retry_at = (now + delay).duration_since(UNIX_EPOCH).unwrap_or_default();
        domain.failures = Failures {
            count,
            retry_at: retry_at.as_secs(),
            is_asked: error.retry_after.is_some(),
        };
        domain.failed_kind = error.kind.or(domain.failed_kind);
        tracing::error!(
            domain = name,
            error = %error,
            failures = count,
            retry_seconds = delay.as_secs(),
            served_until = domain.served_until(),
            "cannot obtain a certificate"
        );
        let (cache, file, failures) = (
            self.settings.cache.clone(),
            name.to_owned(),
            domain.failures,
        );
        // Without the file, other processes and the next start do not know of the wait.
        let stored = spawn_blocking(move || cache.store_failures(&file, Some(failures))).await;
        if let Ok(Err(error)) = stored {
            tracing::debug!(domain = name, %error, "cannot store the failure of an order");
        }
    }
}
