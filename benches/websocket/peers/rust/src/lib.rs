//! Shared by the Rust peers: two worker threads, as oneport has here, and a listener on the port in
//! the command line.

use std::error::Error;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Connections that wait to be accepted, as oneport and the other peers allow.
const BACKLOG: u32 = 4096;

pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
}

/// Listens on 127.0.0.1. Must be called within the runtime.
pub fn listen() -> Result<TcpListener, Box<dyn Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("expected a port")?.parse()?;
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    Ok(socket.listen(BACKLOG)?)
}

/// TLS with the certificate and the key in the files that follow the port, if there are any.
pub fn tls() -> Result<Option<TlsAcceptor>, Box<dyn Error>> {
    let (Some(certificate), Some(key)) = (std::env::args().nth(2), std::env::args().nth(3)) else {
        return Ok(None);
    };
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
