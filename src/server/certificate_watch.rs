//! Certificate watch: reads certificates again when their files change, and reports when they
//! expire.
//!
//! The files of a certificate are seldom replaced at once. They are read when they have not changed
//! for one interval; if they do not belong together then, what is served stays, and the next change
//! is the next attempt.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use metrics::{Gauge, counter, gauge};

use crate::gateway::{Gateway, TlsSettings};
use crate::net::{Certificate, CertificateFacts, FileStamps, ServerTls};

/// How often the files are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How long before its end the log names a certificate, once a day; a fifth of its lifetime if that
/// is shorter. ACME renews with a third left.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Starts the task that watches the certificates of the current TLS, if there is one. It ends when
/// a reload removes `[server.tls]`.
pub(super) fn watch_certificates(gateway: &Gateway) {
    let services = gateway.services();
    let Some(tls) = services.tls.load_full() else {
        return;
    };
    let gateway = gateway.clone();
    services.tasks.spawn("certificates", async move {
        let tasks = gateway.services().tasks.clone();
        tokio::select! {
            () = watch(&gateway, &tls) => {}
            () = tasks.stopping() => {}
        }
    });
}

async fn watch(gateway: &Gateway, tls: &Arc<ServerTls>) {
    let services = gateway.services();
    let mut files = Files::default();
    let mut expiry = Expiry::default();
    let is_served = || {
        let current = services.tls.load();
        current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, tls))
    };
    while is_served() {
        if let Some(settings) = gateway.tls() {
            files.look(tls, settings).await;
        }
        let served = services.certificates.all();
        expiry.report(served.iter().map(|served| &**served), SystemTime::now());
        tokio::time::sleep(WATCH_EVERY).await;
    }
    expiry.report(std::iter::empty(), SystemTime::now());
}

/// The files that differ from those in use.
#[derive(Default)]
struct Files {
    /// The files at the last look; they are read if the next one finds them unchanged.
    changed: Option<FileStamps>,
    /// The files that were read last and refused.
    refused: Option<FileStamps>,
}

impl Files {
    async fn look(&mut self, tls: &ServerTls, settings: Arc<TlsSettings>) {
        let paths = settings.paths.clone();
        let now = tokio::task::spawn_blocking(move || paths.stamps());
        let Ok(now) = now.await else { return };
        if now == tls.applied() {
            *self = Self::default();
        } else if self.refused.as_ref() == Some(&now) {
            self.changed = None;
        } else if self.changed.as_ref() != Some(&now) {
            self.changed = Some(now);
        } else {
            self.changed = None;
            self.refused = (!read_again(tls, settings).await).then_some(now);
        }
    }
}

/// Reads the files and serves them. Returns `false` if they are refused.
async fn read_again(tls: &ServerTls, settings: Arc<TlsSettings>) -> bool {
    let read = tokio::task::spawn_blocking(move || settings.paths.read());
    let refused = match read.await {
        Ok(Ok(files)) => return report(tls.refresh(&files)),
        Ok(Err(refusals)) => refusals.iter().map(ToString::to_string).collect(),
        Err(panicked) => vec![panicked.to_string()],
    };
    refuse(&refused);
    false
}

/// Counts and logs what became of files that were read, by this watch or by a reload. Returns
/// `false` if they could not be applied.
pub(super) fn report(applied: io::Result<bool>) -> bool {
    match applied {
        Ok(true) => {
            count("replaced");
            tracing::info!("certificates replaced");
        }
        Ok(false) => {}
        Err(error) => {
            refuse(&[error.to_string()]);
            return false;
        }
    }
    true
}

fn refuse(reasons: &[String]) {
    count("refused");
    for why in reasons {
        tracing::error!("certificates not replaced, still serving the previous ones: {why}");
    }
}

fn count(outcome: &'static str) {
    counter!("oneport_tls_certificate_reloads_total", "outcome" => outcome).increment(1);
}

/// Reports when certificates expire.
#[derive(Default)]
struct Expiry {
    /// When the log last named each certificate, by its name; `None` if it has not.
    reminded: HashMap<String, Option<Instant>>,
}

impl Expiry {
    /// Reports of each name the certificate that ends first: one may have several, such as one of
    /// RSA and one of ECDSA.
    fn report<'c>(&mut self, served: impl Iterator<Item = &'c Certificate>, now: SystemTime) {
        let mut earliest: HashMap<&str, &CertificateFacts> = HashMap::new();
        for certificate in served {
            let facts = certificate.facts();
            let known = earliest.entry(certificate.name()).or_insert(facts);
            if facts.not_after < known.not_after {
                *known = facts;
            }
        }
        let mut gone = std::mem::take(&mut self.reminded);
        for (name, facts) in earliest {
            let remaining = facts.remaining(now);
            expiry_gauge(name).set(remaining.as_secs_f64());
            let mut reminded = gone.remove(name).flatten();
            let lifetime = facts.not_after.duration_since(facts.not_before);
            let soon = EXPIRES_SOON.min(lifetime.unwrap_or_default() / 5);
            if remaining < soon && reminded.is_none_or(|last| last.elapsed() >= REMIND_EVERY) {
                reminded = Some(Instant::now());
                let not_after = humantime::format_rfc3339_seconds(facts.not_after);
                if remaining.is_zero() {
                    tracing::error!(name, %not_after, "a certificate has expired");
                } else {
                    tracing::warn!(name, %not_after, "a certificate expires soon");
                }
            }
            self.reminded.insert(name.to_owned(), reminded);
        }
        // A series cannot be removed; it has no value while the certificate is not served.
        for name in gone.keys() {
            expiry_gauge(name).set(f64::NAN);
        }
    }
}

fn expiry_gauge(name: &str) -> Gauge {
    gauge!("oneport_tls_certificate_expiry_seconds", "name" => name.to_owned())
}
