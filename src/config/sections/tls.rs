//! The `[server.tls]` section: certificates, client certificates, and what a TLS listener does with
//! clients that do not encrypt.

use std::time::Duration;

use serde::Deserialize;

use crate::config::sections::acme::AcmeConfig;
use crate::config::values::checked::via;
use crate::config::values::config_path::ConfigPath;
use crate::config::values::units::WrittenDuration;

/// `[server.tls]`. Its presence lets the TCP listeners speak TLS.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A file with a certificate and its issuers in PEM, the server's own first.
    pub certificate: Option<ConfigPath>,
    /// The file with its private key in PEM.
    pub key: Option<ConfigPath>,
    /// More certificates; the client's SNI selects one. Default: none.
    pub certificates: Vec<CertificateFiles>,
    /// A file with the authorities that sign the certificates of clients; `None`: clients are not
    /// asked for one.
    pub client_ca: Option<ConfigPath>,
    /// The treatment of clients that do not encrypt. Default: `"redirect"`.
    pub plaintext: Plaintext,
    /// How long browsers remember to use only TLS (RFC 6797); 0 does not tell them. Default: 0.
    #[serde(deserialize_with = "via::<WrittenDuration, _, _>")]
    pub hsts: Duration,
    /// `[server.tls.acme]`; absent: the server obtains no certificates.
    pub acme: Option<AcmeConfig>,
}

/// The files of one certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate and its issuers in PEM.
    pub certificate: ConfigPath,
    /// The private key in PEM.
    pub key: ConfigPath,
}

/// The treatment of clients that do not encrypt on a listener that speaks TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Plaintext {
    /// They are served.
    Serve,
    /// Their requests and handshakes are redirected to the same URL with https or wss.
    #[default]
    Redirect,
    /// They get 400.
    Refuse,
}
