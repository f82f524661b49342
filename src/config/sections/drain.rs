//! The `[server.drain]` section: how a server that stops sends its clients away.

use std::time::Duration;

use serde::Deserialize;

use crate::close_code::CloseCode;
use crate::config::values::checked::{PositiveCount, checked, via};
use crate::config::values::units::WrittenDuration;

/// `[server.drain]`. How long all of it may take is `timeouts.drain`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// How long everything is still served after SIGTERM, while the view `health` says 503.
    /// Default: 0 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub delay: Duration,
    /// How many WebSockets are closed together. Default: 500.
    #[serde(deserialize_with = "via::<PositiveCount, _, _>")]
    pub batch: usize,
    /// The pause between two batches. Default: 100 ms.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub every: Duration,
    /// How much longer a pause may be, at random. Default: 50 ms.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub jitter: Duration,
    /// The close code. Default: 1001.
    #[serde(deserialize_with = "via::<DrainCode, _, _>")]
    pub code: CloseCode,
    /// How long after the last batch clients come back, at least: a server takes that long to start
    /// again. 0 asks for no wait. Default: 5 s.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub retry_after: Duration,
}

checked! {
    /// A close code after which clients come back.
    DrainCode(CloseCode) from u16 as "u16", |code| match code {
        1001 | 1012 | 1013 | 3000..=4999 => CloseCode::new(code).map_err(|error| error.to_string()),
        found => Err(format!("expected a close code of 1001, 1012, 1013 or 3000 to 4999, found {found}")),
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            batch: 500,
            every: Duration::from_millis(100),
            jitter: Duration::from_millis(50),
            code: CloseCode::GOING_AWAY,
            retry_after: Duration::from_secs(5),
        }
    }
}
