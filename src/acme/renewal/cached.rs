//! Cached: what the renewal reads from the cache, which other processes write too, and what it stores
//! there.

use metrics::counter;
use tokio::task::spawn_blocking;

use super::{Renewal, SAVE_EVERY, Seen};
use crate::acme::authority::{Authority, Issued};
use crate::acme::cache::Failures;
use crate::acme::domain::{Served, Unsaved, parse, shown};

impl<A: Authority> Renewal<A> {
    /// Reads what is new in the cache. The first call reads everything.
    pub(in crate::acme) async fn poll(&mut self) {
        let cache = self.settings.cache.clone();
        let now = self.now();
        let (before, challenges_until) = (self.seen, self.challenges_until);
        let polled = spawn_blocking(move || {
            // Before the files, so that a change meanwhile is read by the next poll.
            let seen = Seen {
                files: cache.stamp(),
                challenges: cache.challenges_stamp(),
            };
            // Also when one has become too old, which changes nothing in the directory.
            let is_new = before.is_none_or(|before| before.challenges != seen.challenges)
                || challenges_until.is_some_and(|until| until <= now);
            (seen, is_new.then(|| cache.challenges(now)))
        });
        let Ok((seen, challenges)) = polled.await else {
            return;
        };
        if let Some((challenges, until)) = challenges {
            self.settings.responder.set_others(challenges);
            self.challenges_until = until;
        }
        self.seen = Some(seen);
        if before.is_none_or(|before| before.files != seen.files) {
            let names: Vec<String> = self.domains.keys().cloned().collect();
            let mut is_changed = before.is_none();
            for name in names {
                is_changed |= self.load(&name).await;
            }
            if is_changed {
                self.serve();
            }
        }
    }

    /// Reads the files of a domain. Returns whether another certificate is to be served.
    pub(super) async fn load(&mut self, name: &str) -> bool {
        let Some(domain) = self.domains.get_mut(name) else {
            return false;
        };
        let (cache, before, file) = (self.settings.cache.clone(), domain.stamp, name.to_owned());
        let loaded = spawn_blocking(move || {
            let failures = cache.failures(&file);
            let stamp = cache.certificate_stamp(&file);
            let pem = (stamp != before).then(|| cache.certificate(&file));
            (failures, stamp, pem)
        });
        let Ok((failures, stamp, pem)) = loaded.await else {
            return false;
        };
        let has_failed = failures.is_some();
        match failures {
            Some(failures) if failures.count > domain.failures.count => domain.failures = failures,
            _ => {}
        }
        domain.stamp = stamp;
        let pem = match pem {
            Some(Ok(Some(pem))) => pem,
            Some(Err(error)) => {
                tracing::warn!(domain = name, %error, "cannot read a certificate of ACME");
                return false;
            }
            Some(Ok(None)) | None => return false,
        };
        if domain
            .served
            .as_ref()
            .is_some_and(|served| *served.pem == *pem)
        {
            return false;
        }
        let now = (self.settings.now)();
        match parse(name, &pem) {
            Ok(certificate) => {
                let served = Served::new(certificate, &pem, now);
                tracing::info!(
                    domain = name,
                    until = %shown(served.certificate.facts().not_after),
                    "serving a certificate of ACME"
                );
                // Another process has ended the failures of this one. Those in the cache go on: they
                // are of the renewal of this certificate.
                if domain.served.replace(served).is_some() || !has_failed {
                    domain.failures = Failures::default();
                }
                true
            }
            Err(error) => {
                tracing::warn!(domain = name, error, "a certificate of ACME is broken");
                domain.stamp = None; // as if it were missing
                false
            }
        }
    }

    /// Stores a certificate that could not be stored before.
    pub(super) async fn save(&mut self, name: &str) {
        let now = self.now();
        let due = self
            .domains
            .get(name)
            .and_then(|domain| domain.unsaved.as_ref())
            .filter(|unsaved| unsaved.save_at <= now);
        if let Some(unsaved) = due {
            let issued = unsaved.issued.clone();
            self.store(name, issued).await;
        }
    }

    pub(super) async fn store(&mut self, name: &str, issued: Issued) {
        let (cache, file, pem) = (
            self.settings.cache.clone(),
            name.to_owned(),
            issued.pem.clone(),
        );
        let stored = spawn_blocking(move || {
            cache.create()?;
            // First, so that who reads the certificate finds no failures of it. It counts, not this.
            let _ = cache.store_failures(&file, None);
            cache.store_certificate(&file, &pem)?;
            Ok::<_, std::io::Error>(cache.certificate_stamp(&file))
        });
        let stored = stored.await.unwrap_or_else(|error| Err(error.into()));
        let now = self.now();
        let Some(domain) = self.domains.get_mut(name) else {
            return;
        };
        match stored {
            Ok(stamp) => {
                domain.stamp = stamp;
                domain.unsaved = None;
            }
            Err(error) => {
                counter!("oneport_acme_orders_total", "outcome" => "not_stored").increment(1);
                tracing::error!(domain = name, cache = %self.settings.cache.path().display(), %error, "cannot store the certificate; it is served until this process ends");
                let save_at = now + SAVE_EVERY;
                domain.unsaved = Some(Unsaved { issued, save_at });
            }
        }
    }
}
