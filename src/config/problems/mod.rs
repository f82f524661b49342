//! Problems: the errors of a file, their locations, and what to write instead.

pub(in crate::config) mod error_locations;
pub(in crate::config) mod lint;
pub(in crate::config) mod option_errors;
pub(in crate::config) mod problem;
pub(in crate::config) mod snippet;
pub(in crate::config) mod suggest;
pub(in crate::config) mod unknown;
