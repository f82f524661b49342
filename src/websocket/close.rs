//! Close: why a WebSocket ends, and the close code, reason and closing handshake of each cause.
//!
//! The table of [`Cause`] is the only place that picks a close code or a reason. Every part of the
//! server that ends a socket names a cause: `Ending::of(Cause::SlowClient)`. The same table is in
//! docs/BEHAVIOUR.md for users; a test compares the two.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

pub use crate::close_code::{CloseCode, UnsendableCode};

use crate::channels::{GroupLimit, GroupLimitReached};
use crate::close_code::REASON_BYTES_MAX;
use crate::database::StoreError;

use ClosingHandshake::{FrameOnly, Full, HalfClose, Skipped};
use Code::{Chosen, Fallback, Fixed, NotSent};

/// Begins the end of a reason that asks the client to come back after some seconds, and not before.
const RETRY_AFTER: &str = "retry_after=";

/// The source of a cause's close code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// Always this code.
    Fixed(CloseCode),
    /// This code, unless the consumer or the caller of the server API chose another.
    Fallback(CloseCode),
    /// The code in the close frame of the peer: the client, or the upstream server of a tunnel.
    Chosen,
    /// Reported to the consumer and in the log; no close frame is sent.
    NotSent(CloseCode),
}

/// The part of the closing handshake (RFC 6455 §7.1.2) that remains after a cause.
///
/// A connection that is closed while received bytes are unread is reset, and the reset can overtake
/// the close frame. So the server normally continues to read after it has sent the frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ClosingHandshake {
    /// Send the close frame, then read until the client's close frame, at most for `close_timeout`.
    Full,
    /// The client's bytes can no longer be decoded: send the close frame, half-close (FIN), and
    /// discard bytes until the end of the stream, at most for `close_timeout`.
    HalfClose,
    /// The client does not read: write the close frame if the socket takes it now, and do not wait.
    FrameOnly,
    /// The client has disconnected: send nothing.
    Skipped,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct Row {
    label: &'static str,
    code: Code,
    reason: &'static str,
    handshake: ClosingHandshake,
}

/// Declares `Cause`, `Cause::ALL` and `Cause::row` from one table, so every cause has a row.
macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident: $label:literal, $code:expr, $reason:literal, $handshake:expr;)*) => {
        /// Why a WebSocket ended.
        ///
        /// Some causes share a label, because users count them together and only their codes
        /// differ.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Cause {
            $($(#[$doc])* $cause,)*
        }

        impl Cause {
            /// All causes, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$cause),*];

            const fn row(self) -> Row {
                let (label, code, reason, handshake) = match self {
                    $(Self::$cause => ($label, $code, $reason, $handshake),)*
                };
                Row { label, code, reason, handshake }
            }
        }
    };
}

// Each row: the cause; its label in the access log, in the metric
// `oneport_websockets_closed_total{cause}` and in a backend's `websocket.disconnect`; the close
// code; the reason sent to the client, with `{limit}` filled in; the rest of the closing handshake.
causes! {
    /// The client's close frame came first; the server replies with the same code.
    ClientClose: "client_close", Chosen, "", Full;
    /// The connection ended, or failed, without a close frame.
    ClientGone: "client_gone", NotSent(CloseCode::ABNORMAL), "", Skipped;

    /// The consumer returned a `Close` without an error, or the backend sent `websocket.close`.
    ConsumerClose: "consumer_close", Fallback(CloseCode::NORMAL), "", Full;
    /// The consumer returned an error.
    ConsumerError: "consumer_error", Fallback(CloseCode::INTERNAL_ERROR), "", Full;
    /// The consumer returned the error of a store that is unavailable.
    StoreUnavailable: "consumer_error", Fixed(CloseCode::TRY_AGAIN_LATER), "", Full;
    /// The consumer used a session that has ended.
    SessionGone: "consumer_error", Fixed(CloseCode::SESSION_ENDED), "", Full;
    /// The consumer panicked.
    ConsumerPanic: "consumer_panic", Fixed(CloseCode::INTERNAL_ERROR), "", Full;

    /// The client broke RFC 6455; the reason names the rule.
    ProtocolError: "protocol_error", Fixed(CloseCode::PROTOCOL_ERROR), "", HalfClose;
    /// A text message, or the reason of a close frame, is not UTF-8.
    InvalidUtf8: "invalid_data", Fixed(CloseCode::INVALID_DATA), "expected text in UTF-8", HalfClose;
    /// A compressed message is not valid DEFLATE.
    InvalidDeflate: "invalid_data", Fixed(CloseCode::INVALID_DATA), "expected a message compressed with DEFLATE", HalfClose;
    /// A message is longer than `max_message`.
    TooBig: "too_big", Fixed(CloseCode::TOO_BIG), "expected a message of at most {limit} bytes", HalfClose;
    /// A message has more fragments than `max_fragments`.
    TooManyFragments: "too_big", Fixed(CloseCode::POLICY), "expected a message of at most {limit} fragments", HalfClose;

    /// The client sends more than `rate_limit` allows, with `over = "close"`.
    RateLimited: "rate_limited", Fixed(CloseCode::POLICY), "the client sends too much", HalfClose;

    /// The consumer joins more groups than `groups_per_socket`.
    TooManyGroups: "too_many_groups", Fixed(CloseCode::POLICY), "expected at most {limit} groups", Full;
    /// The sockets and event streams of the client's address are in `groups_per_ip` groups.
    TooManyGroupsOfAddress: "too_many_groups", Fixed(CloseCode::TRY_AGAIN_LATER), "too many groups of this address", Full;

    /// `send_queue` is full and `slow_client` is `close`.
    SlowClient: "slow_client", Fixed(CloseCode::TRY_AGAIN_LATER), "the client reads too slowly", Full;
    /// A write made no progress for `write_timeout`.
    WriteTimeout: "write_timeout", Fixed(CloseCode::TRY_AGAIN_LATER), "the client did not read in time", FrameOnly;
    /// No byte arrived within `pong_timeout` after a ping.
    PingTimeout: "ping_timeout", NotSent(CloseCode::ABNORMAL), "no reply to a ping in time", Skipped;
    /// No byte arrived from the client for `idle_timeout`.
    IdleTimeout: "idle_timeout", Fixed(CloseCode::NORMAL), "the connection was idle for too long", Full;
    /// The client's first message did not arrive within `first_message_timeout`.
    FirstMessageTimeout: "first_message_timeout", Fixed(CloseCode::POLICY), "the first message did not arrive in time", Full;
    /// The connection reached `max_lifetime`.
    Lifetime: "lifetime", Fixed(CloseCode::NORMAL), "the connection reached its maximum lifetime", Full;

    /// The server is shutting down.
    ServerDrain: "server_drain", Fallback(CloseCode::GOING_AWAY), "the server is shutting down", Full;
    /// Another process has taken the place of this one.
    Restart: "restart", Fixed(CloseCode::SERVICE_RESTART), "the server restarts", Full;
    /// A reload changed or removed the socket's route.
    Reload: "reload", Fixed(CloseCode::SERVICE_RESTART), "the route changed", Full;
    /// The session or token that authenticated the socket has ended.
    SessionEnded: "session_ended", Fixed(CloseCode::SESSION_ENDED), "the login has ended", Full;
    /// The server API ended the socket.
    Disconnected: "disconnected", Fallback(CloseCode::DISCONNECTED), "", Full;

    /// The backend failed, or sent a response that is not allowed.
    BackendError: "backend_error", Fixed(CloseCode::INTERNAL_ERROR), "the application failed", Full;
    /// The backend was unavailable for too long, or more events were queued for it than the limits
    /// allow.
    BackendAway: "backend_away", Fixed(CloseCode::TRY_AGAIN_LATER), "the application is unavailable", Full;

    /// The close frame of a tunnel's upstream server came first; it passed to the client.
    UpstreamClose: "upstream_close", Chosen, "", Full;
    /// The connection to the upstream server ended, or failed, without a close frame.
    UpstreamGone: "upstream_gone", Fixed(CloseCode::BAD_GATEWAY), "the connection to the application was lost", Full;
    /// The upstream server took none of the client's bytes for too long.
    UpstreamStalled: "upstream_stalled", Fixed(CloseCode::BAD_GATEWAY), "the application does not read", Full;
}

impl Cause {
    /// Returns the label: one word for the access log, the metrics and `websocket.disconnect`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().label
    }

    /// Returns the source of its close code.
    #[must_use]
    pub const fn code(self) -> Code {
        self.row().code
    }

    /// Returns the reason for the client; empty if there is none, or if it is chosen with the code.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        self.row().reason
    }

    /// Returns whether the server, the application or one of their stores has failed.
    pub(crate) const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::ConsumerError
                | Self::StoreUnavailable
                | Self::ConsumerPanic
                | Self::BackendError
                | Self::BackendAway
                | Self::UpstreamGone
                | Self::UpstreamStalled
        )
    }

    pub(super) const fn closing_handshake(self) -> ClosingHandshake {
        self.row().handshake
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a WebSocket ended. The access log records all fields; the consumer's `disconnect` gets the
/// code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ending {
    /// The code of the first close frame: the client's, or ours. 1005 and 1006 report that there
    /// was none.
    pub code: CloseCode,
    /// Its reason.
    pub reason: Cow<'static, str>,
    /// The cause.
    pub cause: Cause,
}

impl Ending {
    /// Creates the ending of a cause, with the code and the reason of its row.
    #[must_use]
    pub(crate) fn of(cause: Cause) -> Self {
        let code = match cause.code() {
            Fixed(code) | Fallback(code) | NotSent(code) => code,
            Chosen => CloseCode::NO_STATUS,
        };
        Self {
            code,
            reason: Cow::Borrowed(cause.reason()),
            cause,
        }
    }

    /// Creates the ending of a cause that exceeded a limit, which the reason quotes.
    pub(super) fn over_limit(cause: Cause, limit: usize) -> Self {
        let reason = cause.reason().replace("{limit}", &limit.to_string());
        Self {
            reason: reason.into(),
            ..Self::of(cause)
        }
    }

    /// Creates the ending of a socket that may not join a group.
    pub(super) fn of_group_limit(reached: &GroupLimitReached) -> Self {
        match reached.limit {
            GroupLimit::PerSocket => Self::over_limit(Cause::TooManyGroups, reached.max),
            GroupLimit::PerIp => Self::of(Cause::TooManyGroupsOfAddress),
        }
    }

    /// Creates the ending of a cause with another reason; one over 123 bytes is cut at a character.
    pub(super) fn with_reason(cause: Cause, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: truncate(reason.into()),
            ..Self::of(cause)
        }
    }

    /// Creates the ending of a cause whose code and reason the client, the consumer, a caller of the
    /// server API or the configuration chose. Without a code, the code of the cause's row is used.
    pub(crate) fn chosen(
        cause: Cause,
        code: impl Into<Option<CloseCode>>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        debug_assert!(
            matches!(cause.code(), Chosen | Fallback(_)),
            "the table gives {cause:?} its code"
        );
        let mut ending = Self::with_reason(cause, reason);
        ending.code = code.into().unwrap_or(ending.code);
        ending
    }
}

impl Ending {
    /// Adds to the reason when the client is asked to come back, as `retry_after=3`.
    #[must_use]
    pub(super) fn retry_after(mut self, seconds: Option<u64>) -> Self {
        if let Some(seconds) = seconds {
            let reason = format!("{}; {RETRY_AFTER}{seconds}", self.reason);
            self.reason = truncate(reason.into());
        }
        self
    }
}

/// A consumer's request to end its socket: a code and a reason for the client, an error for the
/// log.
///
/// `?` turns any error into 1011 with that error for the log; the client never sees it. The error
/// of an unavailable store becomes 1013, that of a session that has ended 4401, and a limit of
/// groups 1008 or 1013, without a failure in the log.
///
/// ```
/// use oneport::websocket::{Close, CloseCode};
/// fn parse(text: &str) -> Result<u32, Close> {
///     if text == "bye" {
///         return Err(Close::new(CloseCode::NORMAL, "bye"));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("x").unwrap_err().code(), CloseCode::INTERNAL_ERROR);
/// ```
#[derive(Debug)]
pub struct Close(Box<CloseParts>);

#[derive(Debug)]
struct CloseParts {
    ending: Ending,
    error: Option<Box<dyn Error + Send + Sync>>,
}

impl Close {
    /// Creates a request with a code and the reason sent to the client; one over 123 bytes is cut
    /// at a character.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(CloseParts {
            ending: Ending::chosen(Cause::ConsumerClose, code, reason),
            error: None,
        }))
    }

    /// Creates a request with 1000 and no reason.
    #[must_use]
    pub fn normal() -> Self {
        Self::new(CloseCode::NORMAL, "")
    }

    /// Adds an error for the log, which the client never sees; the consumer then counts as failed.
    #[must_use]
    pub fn because(mut self, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.error = Some(error.into());
        if self.0.ending.cause == Cause::ConsumerClose {
            self.0.ending.cause = Cause::ConsumerError;
        }
        self
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> CloseCode {
        self.0.ending.code
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.ending.reason
    }

    /// Returns the error for the log.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync)> {
        self.0.error.as_deref()
    }

    pub(super) fn into_ending(self) -> Ending {
        self.0.ending
    }
}

/// For the log: code, reason and error.
impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code(), self.reason())?;
        match &self.0.error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Close {
    fn from(error: E) -> Self {
        let error = error.into();
        if let Some(reached) = error.downcast_ref::<GroupLimitReached>() {
            return Self(Box::new(CloseParts {
                ending: Ending::of_group_limit(reached),
                error: None, // logged already, once per interval
            }));
        }
        let cause = match error.downcast_ref::<StoreError>() {
            Some(error) if error.is_unavailable() => Cause::StoreUnavailable,
            Some(StoreError::Gone) => Cause::SessionGone,
            _ => Cause::ConsumerError,
        };
        Self(Box::new(CloseParts {
            ending: Ending::of(cause),
            error: Some(error),
        }))
    }
}

/// Cuts a reason to the length that fits into a close frame.
fn truncate(reason: Cow<'static, str>) -> Cow<'static, str> {
    if reason.len() <= REASON_BYTES_MAX {
        return reason;
    }
    let end = reason.floor_char_boundary(REASON_BYTES_MAX);
    Cow::Owned(reason[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reason_is_cut_at_a_character() {
        let close = Close::new(CloseCode::NORMAL, "é".repeat(100));
        assert_eq!(close.reason().len(), 122);
    }

    /// A `u64::MAX` limit is the longest that can be filled in.
    #[test]
    fn every_reason_fits_into_a_close_frame() {
        for cause in Cause::ALL {
            let longest = Ending::over_limit(*cause, usize::MAX).reason;
            assert!(longest.len() <= REASON_BYTES_MAX, "{cause:?}");
        }
    }

    #[test]
    fn only_causes_without_a_close_frame_skip_the_handshake() {
        for cause in Cause::ALL {
            let is_skipped = cause.closing_handshake() == Skipped;
            assert_eq!(matches!(cause.code(), NotSent(_)), is_skipped, "{cause:?}");
        }
    }

    #[test]
    fn wait_is_the_end_of_the_reason() {
        let ending = Ending::chosen(Cause::ServerDrain, CloseCode::SERVICE_RESTART, "the end");
        assert_eq!(ending.clone().retry_after(None).reason, "the end");
        assert_eq!(ending.retry_after(Some(3)).reason, "the end; retry_after=3");
    }

    #[test]
    fn error_for_the_log_makes_a_close_a_failure_and_keeps_its_code() {
        let close = Close::new(CloseCode::POLICY, "no").because("why");
        assert_eq!(close.to_string(), "1008 no: why");
        let ending = close.into_ending();
        assert_eq!(
            (ending.code, ending.cause),
            (CloseCode::POLICY, Cause::ConsumerError)
        );
    }
}
