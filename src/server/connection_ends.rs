//! ConnectionEnds: keeps why connections ended before a request, for those who look for the reason.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::connection::BUFFER_BYTES_MIN;
use super::connection_errors::{self, HeadLimit, TARGET_BYTES_MAX};
use super::connection_timeouts::ConnectionTimeouts;
use crate::config::ServerConfig;
use crate::net::{Admission, ConnectionCause, keep_connection_end};
use crate::services::Services;

/// The first bytes of a connection are no HTTP.
#[derive(Debug, Error)]
#[error("expected a request of HTTP/1.1 or HTTP/2, found another protocol")]
pub(super) struct NotHttp;

/// The last ends, with the keys that bound connections.
#[derive(Clone, Copy)]
pub(super) struct ConnectionEnds<'a> {
    pub(super) services: &'a Services,
    pub(super) server: &'a ServerConfig,
    pub(super) admission: &'a Admission,
}

impl ConnectionEnds<'_> {
    /// Keeps an end, if ends are kept. `reason` is what went wrong, as the log has it.
    pub(super) fn keep(
        &self,
        peer: Option<SocketAddr>,
        cause: ConnectionCause,
        reason: impl Display,
    ) {
        self.keep_by_rule(peer, cause, reason, |ends| ends.rule(cause));
    }

    /// Keeps the end of a connection that was not ready for HTTP in time.
    pub(super) fn keep_timed_out(&self, peer: Option<SocketAddr>, cause: ConnectionCause) {
        let reason = "it did not begin with HTTP in time";
        self.keep_by_rule(peer, cause, reason, |ends| Some(ends.handshake()));
    }

    fn keep_by_rule(
        &self,
        peer: Option<SocketAddr>,
        cause: ConnectionCause,
        reason: impl Display,
        rule: impl FnOnce(&Self) -> Option<String>,
    ) {
        let ends = &self.services.recent_ends;
        if ends.are_kept() {
            keep_connection_end(ends, peer, cause, reason.to_string(), rule(self));
        }
    }

    /// Counts the error that ended a connection, and keeps it if the client made it.
    pub(super) fn keep_error(
        &self,
        peer: Option<SocketAddr>,
        error: &(dyn Error + 'static),
        timeouts: &ConnectionTimeouts,
    ) {
        let header_size = self.server.limits.header_size.as_usize();
        let exceeded = HeadLimit::of(error, timeouts, header_size);
        if let Some(reason) = connection_errors::count(error, exceeded, timeouts.has_flooded()) {
            self.keep(peer, ConnectionCause::Http2Error, reason);
        } else if let Some(limit) = exceeded {
            let cause = match limit {
                HeadLimit::UriSize => ConnectionCause::UriTooLong,
                HeadLimit::HeaderCount => ConnectionCause::TooManyFields,
                HeadLimit::HeaderSize => ConnectionCause::HeadTooLarge,
            };
            self.keep(peer, cause, error);
        } else if let Some(cause) = cause_of(error) {
            self.keep(peer, cause, error);
        }
    }

    fn handshake(&self) -> String {
        let handshake = self.server.timeouts.handshake.as_secs_f64();
        format!("server.timeouts.handshake = {handshake}s")
    }

    /// Returns the key that bounds connections, with its value.
    fn rule(&self, cause: ConnectionCause) -> Option<String> {
        use ConnectionCause::{
            ConnectionRatePerIp, Connections, ConnectionsPerIp, HeadTimedOut, HeadTooLarge,
            ProxyHeader, TlsTimedOut, TooManyFields, UriTooLong,
        };
        let limits = &self.server.limits;
        Some(match cause {
            Connections => {
                let (bound_by, limit) = self.admission.limit();
                format!("{bound_by} = {limit}")
            }
            ConnectionsPerIp => {
                format!(
                    "server.limits.connections_per_ip = {}",
                    limits.connections_per_ip
                )
            }
            ConnectionRatePerIp => {
                let rate = limits.connection_rate_per_ip?;
                format!("server.limits.connection_rate_per_ip = {rate}")
            }
            UriTooLong => {
                let limit = limits.uri_size.as_usize().min(TARGET_BYTES_MAX);
                format!("server.limits.uri_size = {limit} B")
            }
            TooManyFields => format!("server.limits.header_count = {}", limits.header_count),
            HeadTooLarge => {
                let limit = limits.header_size.as_usize().max(BUFFER_BYTES_MIN);
                format!("server.limits.header_size = {limit} B")
            }
            HeadTimedOut | TlsTimedOut => self.handshake(),
            ProxyHeader => "server.trusted_proxies".to_owned(),
            _ => return None,
        })
    }
}

/// Returns the cause of an error of HTTP/1.1; `None` if it is not the client's.
fn cause_of(error: &(dyn Error + 'static)) -> Option<ConnectionCause> {
    let mut next = Some(error);
    while let Some(error) = next {
        let parser = error.downcast_ref::<hyper::Error>();
        if parser.is_some_and(hyper::Error::is_parse) {
            return Some(ConnectionCause::BadHead);
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if inner.is_some_and(<dyn Error + Send + Sync>::is::<NotHttp>) {
            return Some(ConnectionCause::NotHttp);
        }
        next = error.source();
    }
    None
}
