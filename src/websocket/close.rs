//! Close: how a WebSocket may end, what is said of it on the wire, and what the log says.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use thiserror::Error;

use crate::database::StoreError;

/// The most bytes of a close frame's reason (RFC 6455 §5.5: 125 for the payload, 2 of them for the code).
const REASON_BYTES_MAX: usize = 123;

/// A close code that may be sent (RFC 6455 §7.4).
///
/// ```
/// use oneport::websocket::CloseCode;
/// assert_eq!(CloseCode::new(4003).unwrap().get(), 4003);
/// assert!(CloseCode::new(1006).is_err());
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CloseCode(u16);

/// A code that only reports an event, or that nobody has given a meaning.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error(
    "expected a close code that may be sent (1000 to 1003, 1007 to 1014, 3000 to 4999), found {found}"
)]
pub struct UnsendableCode {
    /// The code.
    pub found: u16,
}

impl CloseCode {
    /// The purpose is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// The server goes down, or the page was left.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A kind of data that is not taken.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Text that is no UTF-8.
    pub const INVALID_DATA: Self = Self(1007);
    /// Against the rules of this route.
    pub const POLICY: Self = Self(1008);
    /// A message over the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// The consumer failed.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The server restarts or reloads; come back soon.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// Overload, or a client that reads too slowly; come back later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);

    /// Ours: the login that the socket rests on has ended; log in again.
    pub const SESSION_ENDED: Self = Self(4401);

    /// Reported, never sent: the peer's close frame had no code.
    pub const NO_STATUS: Self = Self(1005);
    /// Reported, never sent: the connection ended without a close frame.
    pub const ABNORMAL: Self = Self(1006);

    /// Takes a code from outside. Refuses those that only report an event, such as 1006.
    pub const fn new(code: u16) -> Result<Self, UnsendableCode> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Self(code)),
            found => Err(UnsendableCode { found }),
        }
    }

    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A consumer's wish to end its socket: a code and a reason for the client, a cause for the log.
///
/// `?` turns any error into 1011 with that error as its cause; the client never sees the cause. A store that does not answer is
/// 1013, a session that was ended is 4401.
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
    code: CloseCode,
    reason: Cow<'static, str>,
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Close {
    /// A code and the reason the client reads; one over 123 bytes is cut at a character.
    pub fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(CloseParts {
            code,
            reason: cut(reason.into()),
            cause: None,
        }))
    }

    /// 1000, with no reason.
    #[must_use]
    pub fn normal() -> Self {
        Self::new(CloseCode::NORMAL, "")
    }

    /// Adds what the log shall know and the client shall not.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> CloseCode {
        self.0.code
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// Returns the cause for the log.
    #[must_use]
    pub fn cause(&self) -> Option<&(dyn Error + Send + Sync)> {
        self.0.cause.as_deref()
    }
}

/// For the log: code, reason and cause.
impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.code, self.0.reason)?;
        match &self.0.cause {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Close {
    fn from(cause: E) -> Self {
        let cause = cause.into();
        let code = match cause.downcast_ref::<StoreError>() {
            Some(error) if error.is_unavailable() => CloseCode::TRY_AGAIN_LATER,
            Some(StoreError::Gone) => CloseCode::SESSION_ENDED,
            _ => CloseCode::INTERNAL_ERROR,
        };
        Self::new(code, "").because(cause)
    }
}

/// Why a WebSocket ended: one word for the log, the metrics and `websocket.disconnect`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cause {
    /// The client sent its close frame first.
    ClientClose,
    /// The connection ended, or failed, without a close frame.
    ClientGone,
    /// The consumer ended it.
    ConsumerClose,
    /// The consumer failed.
    ConsumerError,
    /// The consumer panicked.
    ConsumerPanic,
    /// The client broke RFC 6455.
    ProtocolError,
    /// A text was no UTF-8.
    InvalidData,
    /// A message was over a limit.
    TooBig,
    /// The client did not read fast enough.
    SlowClient,
    /// No answer to a ping in time.
    PingTimeout,
    /// A write made no progress in time.
    WriteTimeout,
    /// Nothing was said for too long.
    IdleTimeout,
    /// The client's first message did not come in time.
    FirstMessageTimeout,
    /// The socket was as old as it may get.
    Lifetime,
    /// The server goes down.
    ServerDrain,
    /// The route changed or went.
    Reload,
    /// The login that it rested on has ended.
    SessionEnded,
    /// The backend failed, or answered what it may not.
    BackendError,
    /// The backend was away for longer than messages are held.
    BackendAway,
    /// Somebody asked for it through the server.
    Disconnected,
}

impl Cause {
    /// How many there are.
    pub(super) const COUNT: usize = Self::Disconnected as usize + 1;

    /// Returns the word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientClose => "client_close",
            Self::ClientGone => "client_gone",
            Self::ConsumerClose => "consumer_close",
            Self::ConsumerError => "consumer_error",
            Self::ConsumerPanic => "consumer_panic",
            Self::ProtocolError => "protocol_error",
            Self::InvalidData => "invalid_data",
            Self::TooBig => "too_big",
            Self::SlowClient => "slow_client",
            Self::PingTimeout => "ping_timeout",
            Self::WriteTimeout => "write_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::FirstMessageTimeout => "first_message_timeout",
            Self::Lifetime => "lifetime",
            Self::ServerDrain => "server_drain",
            Self::Reload => "reload",
            Self::SessionEnded => "session_ended",
            Self::BackendError => "backend_error",
            Self::BackendAway => "backend_away",
            Self::Disconnected => "disconnected",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a WebSocket ended: what the access log is told, and of it the code the consumer's `disconnect`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ending {
    /// The code of the close frame that decided: the client's, or ours. 1005 and 1006 report that there was none.
    pub code: CloseCode,
    /// Its reason.
    pub reason: Cow<'static, str>,
    /// Why.
    pub cause: Cause,
}

impl Ending {
    /// An ending with a code, a cause and a reason for the client; one over 123 bytes is cut at a character.
    pub fn new(code: CloseCode, cause: Cause, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            cause,
            reason: cut(reason.into()),
        }
    }

    /// The connection ended without a close frame.
    #[must_use]
    pub fn gone() -> Self {
        Self::new(CloseCode::ABNORMAL, Cause::ClientGone, "")
    }
}

/// Cuts a reason to what a close frame can hold.
fn cut(reason: Cow<'static, str>) -> Cow<'static, str> {
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
    fn only_codes_with_a_meaning_may_be_sent() {
        for good in [1000, 1001, 1003, 1007, 1011, 1014, 3000, 4000, 4999] {
            assert!(CloseCode::new(good).is_ok(), "{good}");
        }
        for bad in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
            assert!(CloseCode::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_reason_is_cut_at_a_character() {
        let close = Close::new(CloseCode::NORMAL, "é".repeat(100));
        assert_eq!(close.reason().len(), 122);
    }
}
