//! Explanation: a cause or a close code in words, for operators.
//!
//! `oneport explain-close` prints them, and docs/BEHAVIOUR.md has the same table; a test compares
//! the two.

use serde::Serialize;

use super::close::{Cause, Code};

/// A cause in words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Explanation {
    /// The cause's label: the word in the access log and in metrics.
    pub cause: &'static str,
    /// The close code of its row; `None` if the peer chooses it.
    pub code: Option<u16>,
    /// The reason that the client gets.
    pub reason: &'static str,
    /// What happened.
    pub happened: &'static str,
    /// What an operator does about it.
    pub remedy: &'static str,
}

/// A close code in words.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct CodeExplanation {
    /// The code.
    pub code: u16,
    /// Its meaning.
    pub meaning: &'static str,
}

impl Cause {
    /// Returns the cause in words.
    #[must_use]
    pub const fn explanation(self) -> Explanation {
        let (happened, remedy) = self.sentences();
        Explanation {
            cause: self.as_str(),
            code: match self.code() {
                Code::Fixed(code) | Code::Fallback(code) | Code::NotSent(code) => Some(code.get()),
                Code::Chosen => None,
            },
            reason: self.reason(),
            happened,
            remedy,
        }
    }

    const fn sentences(self) -> (&'static str, &'static str) {
        match self {
            Self::ClientClose => (
                "The client sent a close frame first; the server replied with the same code.",
                "Nothing: the client chose to leave. Look into the client if the code is not 1000 or 1001.",
            ),
            Self::ClientGone => (
                "The connection ended or failed without a close frame: a lost network, a closed laptop, a killed tab, or a proxy between that cut it.",
                "Nothing for single ones. If many end after the same time, raise the idle timeout of the proxy in front above ping_interval.",
            ),
            Self::ConsumerClose => (
                "The consumer ended the socket, without an error.",
                "Nothing: the application decided it. The code and the reason are its own.",
            ),
            Self::ConsumerError => (
                "The consumer returned an error.",
                "Read the line \"the consumer failed\" of the same route in the log: it has the error.",
            ),
            Self::StoreUnavailable => (
                "The consumer needed a store that did not answer.",
                "See to the database: the log has the store's error. Clients may come again later.",
            ),
            Self::SessionGone => (
                "The consumer used a session that has ended.",
                "Nothing: the client has to log in again.",
            ),
            Self::ConsumerPanic => (
                "The consumer panicked.",
                "Read the line \"panicked\" in the log, with its place, and report or mend the fault.",
            ),
            Self::ProtocolError => (
                "The client broke RFC 6455; the reason names the rule.",
                "Mend the client or its library. If every client fails so, look for a proxy that changes the bytes.",
            ),
            Self::InvalidUtf8 => (
                "A text message, or the reason of a close frame, was not UTF-8.",
                "Send binary messages for bytes that are not text.",
            ),
            Self::InvalidDeflate => (
                "A compressed message was not valid DEFLATE.",
                "Mend the client or its library, or set compression = \"off\" for the route.",
            ),
            Self::TooBig => (
                "A message was longer than max_message.",
                "Raise max_message of the route if such messages are meant, or split them in the client.",
            ),
            Self::TooManyFragments => (
                "A message had more fragments than max_fragments.",
                "Send messages in fewer frames, or raise max_fragments of the route.",
            ),
            Self::RateLimited => (
                "The client sent more messages or bytes than rate_limit of the route allows, and over is \"close\".",
                "Raise rate or burst of the route's rate_limit, or set over to delay the client instead. If it is an attack, nothing: the limit works.",
            ),
            Self::TooManyGroups => (
                "The consumer or the worker joined more groups than server.limits.groups_per_socket allows.",
                "Look for groups that the application joins and never leaves. Raise groups_per_socket if so many are meant.",
            ),
            Self::TooManyGroupsOfAddress => (
                "The sockets and event streams of the client's address are in as many groups as server.limits.groups_per_ip allows.",
                "Raise groups_per_ip if many clients share an address. If they are behind a proxy, name it in trusted_proxies.",
            ),
            Self::SlowClient => (
                "The client read so slowly that send_queue was full, and slow_client is \"close\".",
                "Send less, raise send_queue, or set slow_client to drop messages instead. A recovery by history brings the client up to date.",
            ),
            Self::WriteTimeout => (
                "The client took no byte for write_timeout.",
                "Nothing for single ones: its network or its machine hangs. If there are many, look at the network in front of the server.",
            ),
            Self::PingTimeout => (
                "No byte arrived within pong_timeout after a ping: the client is gone, or its network is.",
                "Nothing for single ones. If there are many, raise pong_timeout, or look for a client that blocks its event loop.",
            ),
            Self::IdleTimeout => (
                "No byte arrived from the client for idle_timeout.",
                "Let the client send something from time to time, or raise idle_timeout of the route.",
            ),
            Self::FirstMessageTimeout => (
                "The client's first message did not arrive within first_message_timeout.",
                "Let the client send it at once, or raise first_message_timeout of the route.",
            ),
            Self::Lifetime => (
                "The connection reached max_lifetime.",
                "Nothing: the client connects again.",
            ),
            Self::ServerDrain => (
                "The server is shutting down.",
                "Nothing: clients connect again, to this server or another one.",
            ),
            Self::Restart => (
                "A new process of the server has taken over.",
                "Nothing: clients connect again, to the new process.",
            ),
            Self::Reload => (
                "A reload changed or removed the socket's route.",
                "Nothing: clients connect again and get the new route.",
            ),
            Self::SessionEnded => (
                "The session or the token that authenticated the socket has ended, or its user was deactivated or got another password.",
                "Nothing: the client has to log in again.",
            ),
            Self::Disconnected => (
                "A caller of the server API ended the socket.",
                "Nothing: the application decided it. Clients that see 4500 must not connect again by themselves.",
            ),
            Self::BackendError => (
                "The backend failed, or sent a response that is not allowed.",
                "Read the log of the backend, and the warning with the endpoint in this one.",
            ),
            Self::BackendAway => (
                "The backend was unavailable for too long, or more events were queued for it than the limits allow.",
                "See to the backend, and to oneport_backend_requests_total by outcome.",
            ),
            Self::UpstreamClose => (
                "The upstream server of the tunnel sent a close frame first; it passed to the client.",
                "Nothing here: the application decided it.",
            ),
            Self::UpstreamGone => (
                "The connection to the upstream server of the tunnel ended or failed without a close frame.",
                "See to the upstream: it has crashed, was restarted, or cut the connection.",
            ),
            Self::UpstreamStalled => (
                "The upstream server of the tunnel took none of the client's bytes for its idle_timeout.",
                "See to the upstream: it hangs, or it is too slow for its clients.",
            ),
        }
    }

    /// Returns the causes with a label, in the order of the table.
    pub fn with_label(label: &str) -> impl Iterator<Item = Self> + '_ {
        let all = Self::ALL.iter().copied();
        all.filter(move |cause| cause.as_str() == label)
    }
}

/// Returns a close code in words; `None` for a number that no close frame may have.
#[must_use]
pub const fn explain_code(code: u16) -> Option<CodeExplanation> {
    let meaning = match code {
        1000 => "Normal: the purpose of the connection is fulfilled.",
        1001 => "Going away: the server is shutting down, or the user left the page.",
        1002 => "Protocol error: the other side broke RFC 6455.",
        1003 => "Unsupported data: a kind of message that the other side does not take.",
        1004 => "Reserved; no close frame may have it.",
        1005 => "No status: the close frame had no code. It is only reported, never sent.",
        1006 => {
            "Abnormal: the connection ended without a close frame. It is only reported, never sent."
        }
        1007 => {
            "Invalid data: text that is not UTF-8, or another payload that does not match its type."
        }
        1008 => "Policy violation: a message that the other side's rules do not allow.",
        1009 => "Message too big.",
        1010 => {
            "Missing extension: the client needs an extension that the server did not negotiate."
        }
        1011 => "Internal error: the server or its application failed.",
        1012 => "Service restart: the server restarts or reloads; connect again soon.",
        1013 => "Try again later: overload, or a client that reads too slowly.",
        1014 => "Bad gateway: the connection to the server behind this one was lost.",
        1015 => "TLS handshake failed. It is only reported, never sent.",
        4401 => "Oneport's own: the session or the token has ended; log in again.",
        4500 => "Oneport's own: ended through the server API; do not connect again.",
        1016..=2999 => "Reserved for RFC 6455 and extensions; nothing has this meaning yet.",
        3000..=3999 => {
            "Registered with IANA for libraries and frameworks; the one in use knows it."
        }
        4000..=4999 => "For applications; the one behind this server knows it.",
        _ => return None,
    };
    Some(CodeExplanation { code, meaning })
}

/// Returns the refusal of a handshake by a status in words; `None` for other statuses.
#[must_use]
pub const fn explain_refusal(status: u16) -> Option<&'static str> {
    Some(match status {
        400 => {
            "The handshake breaks RFC 6455 or RFC 9110, or the Host is not in server.allowed_hosts. The response names the rule."
        }
        401 => {
            "The middleware login_required found no user: no session, token or ticket, or one that has ended."
        }
        403 => {
            "The middleware origin does not allow the page's origin, a check such as staff_required has refused the user, or the consumer has. The log has the origin."
        }
        404 => "No WebSocket route has the path. A slash at its end counts.",
        405 => "The handshake was not a GET, or not a CONNECT over HTTP/2.",
        426 => {
            "The request was no handshake for version 13, or a proxy in front has removed Upgrade or Connection."
        }
        429 => {
            "A rate limit was reached, or the clients of this address have begun, or are in, too many groups. Retry-After says when to try again."
        }
        414 => "The target is over server.limits.uri_size.",
        431 => {
            "The header fields are over server.limits.header_size, or more than server.limits.header_count."
        }
        500 => "The consumer failed in connect. The log has the error.",
        502 => {
            "The backend or the upstream of the tunnel could not be reached, or sent no valid answer."
        }
        503 => {
            "A limit of connections was reached, the server is stopping, or a store or a backend is unavailable. Retry-After says when to try again."
        }
        504 => {
            "The decision on the handshake took longer than connect_timeout, or the upstream did not answer in time."
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close_code::CloseCode;

    #[test]
    fn every_cause_is_explained_in_sentences() {
        for cause in Cause::ALL {
            let Explanation {
                happened, remedy, ..
            } = cause.explanation();
            for sentence in [happened, remedy] {
                assert!(sentence.ends_with('.'), "{cause:?}: {sentence}");
                assert!(sentence.len() <= 200, "{cause:?}: {sentence}");
            }
            assert!(Cause::with_label(cause.as_str()).any(|one| one == *cause));
        }
    }

    #[test]
    fn every_refusal_of_the_documentation_is_explained() {
        /// Of requests only.
        const OTHERS: [u16; 3] = [408, 413, 501];
        let page = include_str!("../../docs/BEHAVIOUR.md");
        let rows = page.lines().skip_while(|line| !line.starts_with("| 400 |"));
        let rows = rows.take_while(|line| line.starts_with('|'));
        let statuses = rows.filter_map(|row| row.get(2..5)?.parse().ok());
        let statuses: Vec<u16> = statuses.collect();
        assert!(statuses.contains(&504), "{statuses:?}");
        for status in statuses {
            let is_explained = explain_refusal(status).is_some();
            assert_eq!(is_explained, !OTHERS.contains(&status), "{status}");
        }
    }

    #[test]
    fn every_code_that_may_be_sent_is_explained_and_no_impossible_one() {
        for code in 0..=u16::MAX {
            let is_code = (1000..=4999).contains(&code);
            assert_eq!(explain_code(code).is_some(), is_code, "{code}");
            assert!(CloseCode::new(code).is_err() || is_code, "{code}");
        }
    }
}
