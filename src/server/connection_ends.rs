//! ConnectionEnds: keeps why connections ended before a request, for those who look for the reason.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use super::connection_errors;
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
        let ends = &self.services.recent_ends;
        if ends.are_kept() {
            keep_connection_end(ends, peer, cause, reason.to_string(), self.rule(cause));
        }
    }

    /// Counts the error that ended a connection, and keeps it if the client made it.
    /// `is_logged` is whether its cause is in the log already.
    pub(super) fn keep_error(
        &self,
        peer: Option<SocketAddr>,
        error: &(dyn Error + 'static),
        is_logged: bool,
    ) {
        if let Some(reason) = connection_errors::count(error, is_logged) {
            self.keep(peer, ConnectionCause::Http2Error, reason);
        } else if let Some(cause) = cause_of(error) {
            self.keep(peer, cause, error);
        }
    }

    /// Returns the key that bounds connections, with its value.
    fn rule(&self, cause: ConnectionCause) -> Option<String> {
        use ConnectionCause::{
            ConnectionRatePerIp, Connections, ConnectionsPerIp, HeadTimedOut, HeadTooLarge,
            ProxyHeader, TlsTimedOut,
        };
        let limits = &self.server.limits;
        let handshake = self.server.timeouts.handshake.as_secs_f64();
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
            ConnectionRatePerIp => "server.limits.connection_rate_per_ip".to_owned(),
            HeadTooLarge => {
                format!(
                    "server.limits.header_size = {} B",
                    limits.header_size.as_usize()
                )
            }
            HeadTimedOut | TlsTimedOut => format!("server.timeouts.handshake = {handshake}s"),
            ProxyHeader => "server.trusted_proxies".to_owned(),
            _ => return None,
        })
    }
}

/// Returns the cause of an error of HTTP/1.1; `None` if it is not the client's.
fn cause_of(error: &(dyn Error + 'static)) -> Option<ConnectionCause> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_parse_too_large() {
                return Some(ConnectionCause::HeadTooLarge);
            }
            if error.is_parse() {
                return Some(ConnectionCause::BadHead);
            }
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
