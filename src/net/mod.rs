//! Net: the streams of connections, and the listeners that accept them within limits.
//!
//! | file | subject |
//! |---|---|
//! | `stream.rs` | one connection's bytes: TCP, unix socket, TLS, or anything boxed |
//! | `send_file.rs` | a file sent by the kernel |
//! | `blocked_write.rs` | since when a stream takes nothing |
//! | `connect.rs`, `tls/` | opening a stream to another server; TLS |
//! | `peek.rs`, `proxy_protocol.rs` | the first bytes of a connection; the client behind a proxy that passes on bytes |
//! | `listener.rs`, `unix_listener.rs`, `socket_access.rs`, `socket_activation.rs` | where connections are accepted |
//! | `acceptor.rs` | the accept loop: admit, refuse, back off |
//! | `admission.rs`, `connection_rate.rs` | the limits on connections in all: how many are open, and how many are new |
//! | `client_limit.rs` | the limit on connections by client |
//! | `connection_end.rs` | why a connection ended before a request, in words |
//! | `descriptors.rs` | the limit of open files |
//! | `descriptor_passing.rs` | open descriptors that go to another process |
//! | `address.rs`, `bind.rs`, `url/` | both ends of a connection; where to listen; URLs |

mod acceptor;
mod address;
mod admission;
mod bind;
mod blocked_write;
mod client_limit;
mod connect;
mod connection_end;
mod connection_rate;
mod descriptor_passing;
pub(crate) mod descriptors;
#[cfg(test)]
pub(crate) mod in_memory;
mod listener;
mod peek;
mod proxy_protocol;
mod send_file;
mod socket_access;
mod socket_activation;
mod stream;
mod tls;
mod unix_listener;
pub(crate) mod url;

pub(crate) use acceptor::{Acceptor, Serve, refuse};
pub use address::{ClientAddress, Scheme, ServerAddress, ServerEnd};
pub(crate) use admission::{Admission, ConnectionPermit};
pub use bind::{Bind, BindError, Listen, unix_path_problem};
pub(crate) use blocked_write::BlockedWrite;
pub(crate) use client_limit::{ClientLimit, ClientPermit, client_network};
pub(crate) use connection_end::keep as keep_connection_end;
pub use connection_end::{ConnectionCause, ConnectionExplanation};
pub(crate) use descriptor_passing::{receive_with_descriptors, send_with_descriptor};
pub(crate) use listener::Connection;
pub use listener::Listener;
pub(crate) use peek::FirstByte;
pub(crate) use proxy_protocol::Announced;
pub use stream::{ReadWrite, Stream};
#[cfg(test)]
pub(crate) use tls::secure_pair;
pub(crate) use tls::{
    AgreedProtocol, Certificate, CertificateFacts, Certificates, FileStamps, Handshake, Part,
    ServerTls, TlsFiles, TlsFilesRefusal, TlsPaths, first_certificate,
};
pub use tls::{
    ClientCertificate, ClientTls, ClientTlsError, ClientTlsSettings, TlsInfo, TlsStream,
};
pub(crate) use unix_listener::{AccessChange, FileIdentity};
