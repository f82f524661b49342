//! Figures: the metrics of reloads, and of the configuration in effect.

use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge};
use sha2::{Digest, Sha256};

use crate::config::Config;

/// Records the configuration that the process starts with.
pub(super) fn record_start(config: &Config) {
    record_in_effect(config, 0);
}

/// Records a reload that was applied, and how many keys wait for a restart.
pub(super) fn record_replaced(config: &Config, needs_restart: usize) {
    counter!("oneport_reloads_total", "outcome" => "replaced").increment(1);
    record_in_effect(config, needs_restart);
}

/// Records a reload that changed nothing.
pub(super) fn record_refused() {
    counter!("oneport_reloads_total", "outcome" => "refused").increment(1);
    gauge!("oneport_config_last_reload_successful").set(0.0);
}

fn record_in_effect(config: &Config, needs_restart: usize) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    gauge!("oneport_config_last_reload_successful").set(1.0);
    gauge!("oneport_config_last_reload_success_timestamp_seconds")
        .set(now.unwrap_or_default().as_secs_f64());
    gauge!("oneport_config_hash").set(hash(config));
    let count = u32::try_from(needs_restart).unwrap_or(u32::MAX);
    gauge!("oneport_config_restart_needed").set(f64::from(count));
}

/// Returns the first 48 bits of the SHA-256 of all files: a float holds them exactly, so processes
/// with the same files have the same value.
fn hash(config: &Config) -> f64 {
    let mut hasher = Sha256::new();
    for document in &config.documents {
        hasher.update((document.text().len() as u64).to_be_bytes());
        hasher.update(document.text());
    }
    let digest = hasher.finalize();
    let bytes = digest.iter().take(6);
    bytes.fold(0.0, |value, byte| value * 256.0 + f64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_that_of_the_text() {
        let read = |text| Config::parse("a.toml", text, ".".as_ref(), &|_| None);
        let of = |text| hash(&read(text).unwrap().0);
        assert_eq!(of("[server]\n"), of("[server]\n"));
        assert_ne!(of("[server]\n"), of("[server]\n\n"));
        assert!(of("[server]\n") < 2_f64.powi(48));
    }
}
