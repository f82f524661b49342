//! Certificate watch: reads certificates again when their files change, and reports when they
//! expire.
//!
//! The files of a certificate are seldom replaced at once. They are read when they have not changed
//! for one interval; if they do not belong together then, what is served stays, and the next change
//! is the next attempt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use metrics::{Gauge, counter, gauge};

use super::file_watch::FileSnapshot;
use crate::gateway::{Gateway, TlsSettings};
use crate::net::{Certificate, ServerTls};

/// How often the files are looked at.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How long before its end the log names a certificate, once a day; a fifth of its lifetime if that
/// is shorter. ACME renews with a third left.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);
const REMIND_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Starts the task that watches the certificates, if a listener speaks TLS.
pub(super) fn watch_certificates(gateway: &Gateway) {
    let services = gateway.services();
    if services.tls.get().is_none() {
        return;
    }
    let gateway = gateway.clone();
    services.tasks.spawn("certificates", async move {
        let tasks = gateway.services().tasks.clone();
        tokio::select! {
            () = watch(&gateway) => {}
            () = tasks.stopping() => {}
        }
    });
}

async fn watch(gateway: &Gateway) {
    let services = gateway.services();
    let Some(tls) = services.tls.get() else {
        return;
    };
    let mut files = Files::default();
    let mut expiry = Expiry::default();
    loop {
        if let Some(settings) = gateway.tls() {
            files.look(tls, settings).await;
        }
        let served = services.certificates.all();
        expiry.report(served.iter().map(|served| &**served), SystemTime::now());
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// The state of the files.
#[derive(Default)]
struct Files {
    /// The files as they were read; `None` before the first look.
    read: Option<FileSnapshot>,
    /// The files at the last look, if they have changed since they were read.
    changed: Option<FileSnapshot>,
}

impl Files {
    async fn look(&mut self, tls: &ServerTls, settings: Arc<TlsSettings>) {
        let paths = settings.paths.clone();
        let now = tokio::task::spawn_blocking(move || FileSnapshot::of_files(paths.files()));
        let Ok(now) = now.await else { return };
        let Some(read) = &self.read else {
            // They were read when the server started.
            self.read = Some(now);
            return;
        };
        if now == *read {
            self.changed = None;
        } else if self.changed.as_ref() != Some(&now) {
            self.changed = Some(now);
        } else {
            self.changed = None;
            self.read = Some(now);
            read_again(tls, settings).await;
        }
    }
}

async fn read_again(tls: &ServerTls, settings: Arc<TlsSettings>) {
    let count = |outcome| {
        counter!("oneport_tls_certificate_reloads_total", "outcome" => outcome).increment(1);
    };
    let read = tokio::task::spawn_blocking(move || settings.paths.read());
    let refused = match read.await {
        Ok(Ok(files)) => match tls.apply(&files) {
            Ok(is_changed) => {
                if is_changed {
                    count("replaced");
                    tracing::info!("certificates replaced");
                }
                return;
            }
            Err(error) => vec![error.to_string()],
        },
        Ok(Err(refusals)) => refusals.iter().map(ToString::to_string).collect(),
        Err(panicked) => vec![panicked.to_string()],
    };
    count("refused");
    for why in refused {
        tracing::error!("certificates not replaced, still serving the previous ones: {why}");
    }
}

/// Reports when certificates expire.
#[derive(Default)]
struct Expiry {
    /// When the log last named each certificate, by its name; `None` if it has not.
    reminded: HashMap<String, Option<Instant>>,
}

impl Expiry {
    fn report<'c>(&mut self, served: impl Iterator<Item = &'c Certificate>, now: SystemTime) {
        let mut gone = std::mem::take(&mut self.reminded);
        for certificate in served {
            let name = certificate.name();
            let facts = certificate.facts();
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
