//! Authority: a CA that issues certificates, as the renewal sees it.

use std::future::Future;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use thiserror::Error;

/// A CA.
pub(super) trait Authority: Send + Sync + 'static {
    /// Obtains a certificate. Dropping the future abandons the order and its challenges.
    fn order(
        &self,
        request: OrderRequest,
    ) -> impl Future<Output = Result<Issued, OrderError>> + Send;

    /// Asks when to renew a certificate (RFC 9773); `None` if the CA does not say.
    fn renewal_window(
        &self,
        chain: &[u8],
    ) -> impl Future<Output = Result<Option<RenewalWindow>, OrderError>> + Send;
}

/// What is ordered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct OrderRequest {
    pub(super) domain: String,
    /// The challenges to use, the best first.
    pub(super) kinds: Vec<ChallengeKind>,
    /// The chain in PEM of the certificate that is renewed.
    pub(super) replaces: Option<Vec<u8>>,
}

/// A kind of challenge that this server can answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ChallengeKind {
    TlsAlpn01,
    Http01,
}

impl ChallengeKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

/// A certificate that was issued.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Issued {
    /// The private key and the chain in PEM.
    pub(super) pem: String,
}

/// When a CA suggests to renew a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct RenewalWindow {
    pub(super) window: Range<SystemTime>,
    /// When to ask again.
    pub(super) again_after: Duration,
}

/// Why there is no certificate.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{sentence}")]
pub(super) struct OrderError {
    sentence: String,
    /// How long the CA asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// The challenge that failed.
    pub(super) kind: Option<ChallengeKind>,
}

impl OrderError {
    pub(super) fn new(sentence: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            retry_after: None,
            kind: None,
        }
    }

    /// Returns the error as that of a challenge.
    pub(super) fn of_challenge(mut self, kind: ChallengeKind) -> Self {
        self.kind = Some(kind);
        self
    }
}
