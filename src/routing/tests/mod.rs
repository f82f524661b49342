//! Tests of whole tables: resolution, properties of any table, and the vectors of Channels'
//! `URLRouter`.

mod channels_vectors;
mod properties;
pub(super) mod resolution;
