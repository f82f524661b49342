//! Outage: a time without Redis, and the rate limit of its log lines.

use std::time::Instant;

use metrics::counter;
use redis::RedisError;

use super::Remote;
use crate::telemetry::LOG_INTERVAL;

/// A time without Redis, and the rate limit of its log lines.
#[derive(Default)]
pub(super) struct Outage {
    since: Option<Instant>,
    is_logged: bool,
    /// When a loss was last logged.
    last_logged: Option<Instant>,
}

impl Outage {
    /// Called when a connection was lost or could not be made. Returns whether to log it: once per
    /// outage. If Redis refused a command, once per interval, because the process connects and is
    /// refused again and again.
    fn begins(&mut self, now: Instant, is_unreachable: bool) -> bool {
        let is_new = self.since.replace(self.since.unwrap_or(now)).is_none();
        let is_due = || {
            self.last_logged
                .is_none_or(|last| now - last >= LOG_INTERVAL)
        };
        let logs = !self.is_logged && ((is_new && is_unreachable) || is_due());
        if logs {
            self.is_logged = true;
            self.last_logged = Some(now);
        }
        logs
    }
}

impl Remote {
    fn shown_urls(&self) -> String {
        let urls = self.0.urls.iter().map(ToString::to_string);
        urls.collect::<Vec<_>>().join(", ")
    }

    pub(super) fn log_disconnected(&self, outage: &mut Outage, error: &RedisError) {
        if outage.begins(Instant::now(), error.is_io_error()) {
            let redis = self.shown_urls();
            let cause = match error.detail() {
                Some(detail) if error.code() == Some("NOPERM") => detail.to_owned(),
                _ => error.to_string(),
            };
            tracing::error!(
                redis,
                "the channel layer lost Redis: {cause}; members of this process still receive its events"
            );
        } else {
            tracing::debug!(%error, "still not connected to Redis");
        }
    }

    pub(super) fn log_connected(&self, outage: &mut Outage, resubscribed: usize) {
        let is_logged = std::mem::take(&mut outage.is_logged);
        let Some(since) = outage.since.take() else {
            tracing::info!(redis = self.shown_urls(), format = %self.0.format, "the channel layer is connected to Redis");
            return;
        };
        let seconds = since.elapsed().as_secs_f64();
        let lost = self.0.outbox.take_lost();
        counter!("oneport_layer_reconnects_total").increment(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few seconds"
        )]
        counter!("oneport_layer_outage_seconds_total").increment(seconds.ceil() as u64);
        if is_logged {
            tracing::warn!(
                seconds,
                lost,
                resubscribed,
                "the channel layer is connected to Redis again"
            );
        }
    }
}
