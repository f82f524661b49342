//! Access rule: which requests of a route get a line in the access log.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use crate::telemetry::Ratio;

/// Which requests of a route get a line in the access log: the key `access_log`.
///
/// It has no part in a hash: a reload that changes it alone keeps the sockets of the route.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AccessRule {
    /// All.
    #[default]
    On,
    /// None.
    Off,
    /// A share of them, and all that fail on the server's side. A handshake and its socket are
    /// chosen together.
    Sampled(Ratio),
}

impl Hash for AccessRule {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

impl AccessRule {
    /// Returns whether a request gets a line. `random` is the same number for a handshake and its
    /// socket.
    pub(crate) fn includes(self, random: impl FnOnce() -> u64, has_failed: bool) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::Sampled(ratio) => has_failed || ratio.includes(random()),
        }
    }
}

const EXPECTED: &str = "\"on\", \"off\" or a share from 0 to 1";

impl<'de> Deserialize<'de> for AccessRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = AccessRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AccessRule, E> {
                match text {
                    "on" => Ok(AccessRule::On),
                    "off" => Ok(AccessRule::Off),
                    other => Err(E::custom(format_args!(
                        "expected {EXPECTED}, found {other:?}"
                    ))),
                }
            }

            fn visit_f64<E: Error>(self, share: f64) -> Result<AccessRule, E> {
                let ratio = Ratio::new(share).map(AccessRule::Sampled);
                ratio.ok_or_else(|| E::custom(format_args!("expected {EXPECTED}, found {share}")))
            }

            fn visit_i64<E: Error>(self, share: i64) -> Result<AccessRule, E> {
                match share {
                    0 => self.visit_f64(0.0),
                    1 => self.visit_f64(1.0),
                    other => Err(E::custom(format_args!(
                        "expected {EXPECTED}, found {other}"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_sampled_route_always_get_a_line() {
        let sampled = AccessRule::Sampled(Ratio::new(0.5).unwrap());
        for (rule, random, has_failed, expected) in [
            (AccessRule::On, u64::MAX, false, true),
            (AccessRule::Off, 0, true, false),
            (sampled, 0, false, true),
            (sampled, u64::MAX, false, false),
            (sampled, u64::MAX, true, true),
        ] {
            assert_eq!(rule.includes(|| random, has_failed), expected, "{rule:?}");
        }
    }
}
