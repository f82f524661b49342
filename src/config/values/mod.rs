//! The types of single values: durations, sizes, rates, addresses, URLs, secrets, and texts with a rule.

pub(in crate::config) mod checked;
pub(in crate::config) mod config_path;
pub(in crate::config) mod config_url;
pub(in crate::config) mod not_compared;
pub(in crate::config) mod rate;
pub(in crate::config) mod redis_url;
pub(in crate::config) mod secret;
pub(in crate::config) mod store_url;
pub(in crate::config) mod time_zone;
pub(in crate::config) mod units;
