//! CloseCode: a WebSocket close code, and the rules of RFC 6455 for codes and reasons.
//!
//! Which code ends which socket is decided in `websocket/close.rs`.

use std::fmt;

use thiserror::Error;

/// The most bytes of a close frame's reason: 125 of payload, less 2 for the code (RFC 6455 §5.5).
pub(crate) const REASON_BYTES_MAX: usize = 123;

/// A close code that may be sent (RFC 6455 §7.4).
///
/// ```
/// use oneport::websocket::CloseCode;
/// assert_eq!(CloseCode::new(4003).unwrap().get(), 4003);
/// assert!(CloseCode::new(1006).is_err());
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CloseCode(u16);

/// A code that only reports an event, or that has no meaning assigned.
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
    /// The server is shutting down, or the user left the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A kind of data that the endpoint does not accept.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Text that is not UTF-8, or another payload that does not match its type.
    pub const INVALID_DATA: Self = Self(1007);
    /// A message that violates the endpoint's policy.
    pub const POLICY: Self = Self(1008);
    /// A message over the limit.
    pub const TOO_BIG: Self = Self(1009);
    /// The server failed, such as a consumer that returned an error.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// The server restarts or reloads; reconnect soon.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// Overload, or a client that reads too slowly; reconnect later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// The connection to the server behind this one was lost.
    pub const BAD_GATEWAY: Self = Self(1014);

    /// Oneport's own: the session or token has ended; log in again.
    pub const SESSION_ENDED: Self = Self(4401);
    /// Oneport's own: ended through the server API, which named no code; do not reconnect.
    pub const DISCONNECTED: Self = Self(4500);

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
}
