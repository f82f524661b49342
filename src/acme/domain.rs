//! Domain: the state of one domain and of its certificate.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::authority::{ChallengeKind, Issued};
use super::cache::Failures;
use super::schedule;
use crate::file_stamp::FileStamp;
use crate::net::Certificate;

/// How often the CA is asked for its window: as it says, within these limits.
pub(super) const ASK_EVERY: Range<Duration> =
    Duration::from_secs(60 * 60)..Duration::from_secs(24 * 60 * 60);

/// A domain.
#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) served: Option<Served>,
    /// The state of its file when it was read.
    pub(super) stamp: Option<FileStamp>,
    pub(super) failures: Failures,
    /// The challenge that failed last: the other one is tried first.
    pub(super) failed_kind: Option<ChallengeKind>,
    pub(super) unsaved: Option<Unsaved>,
}

/// The certificate of a domain.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) certificate: Arc<Certificate>,
    /// The chain in PEM, and the key.
    pub(super) pem: Arc<str>,
    /// From 0 to 1: where within a window the renewal is.
    pub(super) jitter: f64,
    pub(super) renew_at: SystemTime,
    /// When to ask the CA for its window.
    pub(super) ask_at: SystemTime,
}

/// A certificate that could not be stored.
#[derive(Debug)]
pub(super) struct Unsaved {
    pub(super) issued: Issued,
    pub(super) save_at: SystemTime,
}

impl Domain {
    /// Returns whether an order is due, apart from the wait after failures.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        match &self.served {
            None => true,
            Some(served) => {
                let is_removed = self.stamp.is_none() && self.unsaved.is_none();
                is_removed || served.renew_at <= now
            }
        }
    }

    /// Returns when the certificate that is served ends, for the log.
    pub(super) fn served_until(&self) -> Option<String> {
        let served = self.served.as_ref()?;
        Some(shown(served.certificate.facts().not_after))
    }

    /// Returns whether the wait after a failure goes on. One that is longer than any wait was stored
    /// by a clock that was wrong, and is over.
    pub(super) fn is_waiting(&self, now: SystemTime) -> bool {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.failures.retry_at))
            .and_then(|until| until.duration_since(now).ok())
            .is_some_and(|left| !left.is_zero() && left <= schedule::WAIT_MAX)
    }
}

impl Served {
    pub(super) fn new(certificate: Certificate, pem: &str, now: SystemTime) -> Self {
        let facts = certificate.facts();
        let jitter = fastrand::f64();
        Self {
            renew_at: schedule::renew_at(&facts.lifetime(), jitter),
            ask_at: now + ASK_EVERY.start.mul_f64(jitter),
            certificate: Arc::new(certificate),
            pem: pem.into(),
            jitter,
        }
    }
}

/// Parses a private key and a chain. The chain must be for the domain.
pub(super) fn parse(domain: &str, pem: &str) -> Result<Certificate, String> {
    let certificate =
        Certificate::from_pem(pem.as_bytes(), pem.as_bytes()).map_err(|error| error.to_string())?;
    if certificate.facts().has_name(domain) {
        Ok(certificate)
    } else {
        Err(format!(
            "expected a certificate for {domain}, found one for {}",
            certificate.facts().names.join(", ")
        ))
    }
}

pub(super) fn shown(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time.max(UNIX_EPOCH)).to_string()
}
