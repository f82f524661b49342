//! Acme: certificates that the server obtains and renews by itself (RFC 8555).
//!
//! | file | subject |
//! |---|---|
//! | `renewal.rs`, `renewal/cached.rs` | the task: which certificate is due, and what happens when an order fails; its use of the cache |
//! | `domain.rs` | the state of a domain and of its certificate |
//! | `schedule.rs` | when: renewals, and delays after failures |
//! | `authority.rs` | a CA, as the renewal sees it |
//! | `directory.rs`, `order.rs`, `http_client.rs` | the account, one order, and the requests to the CA |
//! | `challenges.rs` | the answers to a CA that validates a name |
//! | `cache.rs`, `lock.rs` | the files, and the lock of the process that orders |

mod authority;
mod cache;
mod challenges;
mod directory;
mod domain;
mod http_client;
mod lock;
mod order;
mod renewal;
mod schedule;
#[cfg(test)]
mod scratch;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};

use self::authority::ChallengeKind;
use self::cache::Cache;
use self::challenges::{Answers, Responder};
use self::directory::Directory;
use self::renewal::{POLL, Renewal, Settings};
use crate::config::{AcmeChallenge, AcmeConfig};
use crate::net::Certificates;
use crate::tasks::Tasks;

/// How long the start waits for the cached certificates. A cache on a mount that does not answer
/// must not keep the server from starting.
const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The certificates of `[server.tls.acme]` (cheap to clone).
#[derive(Clone, Debug, Default)]
pub(crate) struct Acme(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    answers: Arc<Answers>,
    plan: watch::Sender<Option<Arc<Plan>>>,
    /// Ends the waits after failures.
    retry: Notify,
    /// Becomes true when the cached certificates are served.
    is_loaded: watch::Sender<bool>,
    is_started: AtomicBool,
}

/// What to do.
#[derive(Debug, PartialEq)]
struct Plan {
    config: AcmeConfig,
    kinds: Vec<ChallengeKind>,
}

impl Acme {
    /// Returns the answer to a request for a path: the key authorization of an `http-01` challenge
    /// that is under way, in this process or in one that shares the cache.
    pub(crate) fn answer(&self, path: &str) -> Option<Arc<str>> {
        self.0.answers.get(path)
    }

    /// Begins, changes or ends the work. With an unchanged configuration, orders that have failed
    /// are tried again at once.
    ///
    /// `ports` are those of the listeners.
    pub(crate) fn configure(
        &self,
        config: Option<&AcmeConfig>,
        ports: &[u16],
        certificates: &Arc<Certificates>,
        tasks: &Tasks,
    ) {
        let plan = config.map(|config| Plan {
            config: config.clone(),
            kinds: kinds(config.challenge, ports),
        });
        let is_changed = self.0.plan.send_if_modified(|before| {
            let is_same = before.as_deref() == plan.as_ref();
            *before = plan.map(Arc::new);
            !is_same
        });
        if !is_changed {
            self.0.retry.notify_one();
        } else if !self.0.is_started.swap(true, Ordering::AcqRel) {
            let run = run(self.0.clone(), certificates.clone(), tasks.clone());
            tasks.spawn("acme", run);
        }
    }

    /// Waits until the cached certificates are served, for 5 s at most.
    pub(crate) async fn loaded(&self) {
        if self.0.plan.borrow().is_none() {
            return;
        }
        let mut is_loaded = self.0.is_loaded.subscribe();
        let loaded = is_loaded.wait_for(|is_loaded| *is_loaded);
        if tokio::time::timeout(LOAD_TIMEOUT, loaded).await.is_err() {
            tracing::warn!(
                "the cached certificates of ACME are not read yet; starting without them"
            );
        }
    }
}

/// Returns the challenges to use, the best first.
fn kinds(challenge: AcmeChallenge, ports: &[u16]) -> Vec<ChallengeKind> {
    use ChallengeKind::{Http01, TlsAlpn01};
    match challenge {
        AcmeChallenge::TlsAlpn01 => vec![TlsAlpn01],
        AcmeChallenge::Http01 => vec![Http01],
        // A port that is neither is reached through a forward that this process does not know.
        AcmeChallenge::Auto if ports.contains(&80) && !ports.contains(&443) => {
            vec![Http01, TlsAlpn01]
        }
        AcmeChallenge::Auto => vec![TlsAlpn01, Http01],
    }
}

/// Follows the plan until the server stops.
async fn run(shared: Arc<Shared>, certificates: Arc<Certificates>, tasks: Tasks) {
    let mut plans = shared.plan.subscribe();
    let responder = Responder::new(shared.answers.clone(), certificates.clone());
    let mut is_reload = false;
    let mut earlier = None;
    loop {
        let plan = plans.borrow_and_update().clone();
        let mut renewal = plan.map(|plan| {
            let AcmeConfig {
                cache, directory, ..
            } = &plan.config;
            let cache = Cache::new(cache.as_ref(), directory);
            let settings = Settings {
                authority: Arc::new(Directory::new(
                    &plan.config,
                    cache.clone(),
                    responder.clone(),
                )),
                cache,
                domains: plan.config.domains.clone(),
                kinds: plan.kinds.clone(),
                certificates: certificates.clone(),
                responder: responder.clone(),
                now: Arc::new(SystemTime::now),
            };
            Renewal::new(settings, earlier.take())
        });
        let working = async {
            let Some(renewal) = &mut renewal else {
                responder.set_others(Vec::new());
                certificates.set_obtained(Vec::new());
                return std::future::pending().await;
            };
            renewal.poll().await;
            shared.is_loaded.send_replace(true);
            if is_reload {
                renewal.retry_now();
            }
            loop {
                renewal.renew().await;
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = shared.retry.notified() => renewal.retry_now(),
                }
                renewal.poll().await;
            }
        };
        // An order under way ends with its future: its challenge is removed, its lock is free.
        tokio::select! {
            () = working => {}
            _ = plans.changed() => {}
            () = tasks.stopping() => return,
        }
        is_reload = true;
        earlier = renewal;
    }
}
