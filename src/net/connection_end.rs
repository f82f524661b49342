//! ConnectionEnd: why a connection was refused, or failed, before the server could serve a request.
//!
//! The dashboard and the server API show the last ones, and `oneport explain-close` prints the table;
//! docs/BEHAVIOUR.md has it too, and a test compares the two.

use std::net::SocketAddr;

use serde::Serialize;

use crate::telemetry::recent_ends::{End, EndKind, RecentEnds};
use crate::timestamp::Timestamp;

/// Declares `ConnectionCause`, `ConnectionCause::ALL` and its explanations from one table.
macro_rules! connection_causes {
    ($($(#[$doc:meta])* $cause:ident: $label:literal, $status:expr, $happened:literal, $remedy:literal;)*) => {
        /// Why a connection ended before a request.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum ConnectionCause {
            $($(#[$doc])* $cause,)*
        }

        impl ConnectionCause {
            /// All causes, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$cause),*];

            /// Returns the cause in words.
            #[must_use]
            pub const fn explanation(self) -> ConnectionExplanation {
                let (cause, status, happened, remedy) = match self {
                    $(Self::$cause => ($label, $status, $happened, $remedy),)*
                };
                ConnectionExplanation { cause, status, happened, remedy }
            }
        }
    };
}

/// A cause in words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct ConnectionExplanation {
    /// The cause's label.
    pub cause: &'static str,
    /// The status of the answer; `None` if the client gets none.
    pub status: Option<u16>,
    /// What happened.
    pub happened: &'static str,
    /// What an operator does about it.
    pub remedy: &'static str,
}

// Each row: the cause; its label; the status of the answer; what happened; what to do. Limits have
// the labels of `oneport_connections_refused_total{reason}`.
connection_causes! {
    /// `server.limits.connections` is reached.
    Connections: "connections", Some(503),
        "As many connections were open as server.limits.connections, or the limit of open files, allows.",
        "Look at who has them: the dashboard, or the client of the access log. Raise the limit and LimitNOFILE= if the load is meant, or add a process.";
    /// `server.limits.connections_per_ip` is reached.
    ConnectionsPerIp: "connections_per_ip", Some(503),
        "One client had as many connections open as server.limits.connections_per_ip allows.",
        "Raise it if many users share the address. If the address is that of your own proxy, name it in server.trusted_proxies.";
    /// `server.limits.connection_rate_per_ip` is reached.
    ConnectionRatePerIp: "connection_rate_per_ip", Some(503),
        "One client opened connections faster than server.limits.connection_rate_per_ip allows.",
        "Raise it if many users share the address, or mend a client that connects again without a pause.";
    /// The header of the PROXY protocol is malformed, or did not arrive.
    ProxyHeader: "proxy_header", None,
        "A trusted proxy sent a malformed header of the PROXY protocol, or not all of it in time.",
        "Compare the settings of the proxy (send-proxy-v2 in HAProxy) with the version that the reason names.";
    /// The TLS handshake failed.
    TlsFailed: "tls_failed", None,
        "Client and server did not agree on TLS: the reason has the alert or the rule.",
        "An alert of the client means that it does not trust the certificate, or knows another name. Otherwise its TLS is too old, or it has no client certificate.";
    /// The client left during the TLS handshake.
    TlsGone: "tls_gone", None,
        "The client closed the connection during the TLS handshake.",
        "Nothing for single ones: a scan, a health check by TCP, or a user that left. If there are many, look at the certificate as clients see it.";
    /// The TLS handshake took too long.
    TlsTimedOut: "tls_timed_out", None,
        "The TLS handshake was not over within server.timeouts.handshake.",
        "Nothing for single ones. If there are many, clients are slow, the processors are busy, or an attack holds connections open.";
    /// The client speaks another protocol.
    NotHttp: "not_http", None,
        "The first line was no request of HTTP, but one of another protocol.",
        "Mend the address that the client uses. If nothing should send such lines, it is a scan.";
    /// A head is malformed.
    BadHead: "bad_head", Some(400),
        "The head of a request was no valid HTTP; the reason names the rule.",
        "Mend the client. An invalid method is mostly TLS on a listener without it: use http:// there, or set server.tls.";
    /// A target is too long for hyper.
    UriTooLong: "uri_too_long", Some(414),
        "The target of a request was over server.limits.uri_size, and longer than 65,534 bytes.",
        "Mend the client, or send such data as a body: no limit allows longer targets over HTTP/1.1.";
    /// A head has too many fields.
    TooManyFields: "too_many_fields", Some(431),
        "The head of a request had more fields than server.limits.header_count, and more than 100.",
        "Raise it if such heads are meant. Mostly proxies have added the same field again and again.";
    /// A head is too large.
    HeadTooLarge: "head_too_large", Some(431),
        "The head of a request was over server.limits.header_size.",
        "Raise it if such heads are meant. Mostly cookies have grown: let the application set fewer.";
    /// A head did not arrive in time.
    HeadTimedOut: "head_timed_out", None,
        "The head of a request was not whole within server.timeouts.handshake.",
        "Nothing for single ones. Many from one address are an attack by slow heads: the deadline works, and server.limits.connections_per_ip bounds them.";
    /// The client broke HTTP/2.
    Http2Error: "http2_error", None,
        "The client broke a rule or a limit of HTTP/2 and got GOAWAY with the code that the reason names.",
        "Mend the client. enhance_your_calm is a flood, such as rapid resets: the limit works.";
}

impl ConnectionCause {
    /// Returns its label: one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.explanation().cause
    }

    /// Returns the cause with a label.
    #[must_use]
    pub fn with_label(label: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|cause| cause.as_str() == label)
    }
}

/// Keeps the end of a connection for those who look for the reason.
#[cold]
pub(crate) fn keep(
    ends: &RecentEnds,
    peer: Option<SocketAddr>,
    cause: ConnectionCause,
    reason: String,
    rule: Option<String>,
) {
    ends.push(End {
        number: 0,
        at: Timestamp::now().to_string(),
        kind: EndKind::Connection,
        table: "connection".to_owned(),
        route: String::new(),
        path: String::new(),
        client: peer.map(|peer| peer.to_string()),
        user: None,
        code: cause.explanation().status.unwrap_or_default(),
        cause: cause.as_str().to_owned(),
        reason,
        rule,
        id: String::new(),
        seconds: None,
        messages: None,
        process: String::new(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_explained_in_sentences() {
        for cause in ConnectionCause::ALL {
            let explanation = cause.explanation();
            for sentence in [explanation.happened, explanation.remedy] {
                assert!(sentence.ends_with('.'), "{cause:?}: {sentence}");
                assert!(sentence.len() <= 200, "{cause:?}: {sentence}");
            }
            assert_eq!(ConnectionCause::with_label(cause.as_str()), Some(*cause));
        }
        assert_eq!(ConnectionCause::with_label("slow_client"), None);
    }
}
