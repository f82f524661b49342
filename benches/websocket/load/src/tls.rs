//! TLS of the load generator: a connection's bytes, plain or encrypted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Trusts the certificates in a file. No session is resumed: each handshake is a full one.
pub fn config(certificate: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_file_iter(certificate)? {
        roots.add(der?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A socket, perhaps with TLS over it.
pub struct Stream {
    pub socket: TcpStream,
    tls: Option<Box<ClientConnection>>,
}

impl Stream {
    pub fn new(socket: TcpStream, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let tls = match tls {
            Some(config) => {
                let name = ServerName::try_from("localhost").context("not a name")?;
                let mut tls = ClientConnection::new(config.clone(), name)?;
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
            None => None,
        };
        Ok(Self { socket, tls })
    }

    /// Whether the handshake of TLS is not complete yet.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether ciphertext waits for the socket.
    pub fn is_unflushed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends `close_notify` and closes our side.
    pub fn close(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush()?;
        self.socket.shutdown(std::net::Shutdown::Write)
    }
}

impl Read for Stream {
    /// Reads until the buffer is full or the socket is empty.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.read(buffer);
        };
        let mut filled = 0;
        loop {
            match tls.reader().read(&mut buffer[filled..]) {
                Ok(0) => return Ok(filled),
                Ok(count) => {
                    filled += count;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) if filled > 0 => return Ok(filled),
                Err(error) => return Err(error),
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Ok(filled),
                Ok(_) => {
                    tls.process_new_packets().map_err(io::Error::other)?;
                    flush(tls, &mut self.socket)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => {
                    return Ok(filled);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Write for Stream {
    /// With TLS, takes everything: what the socket does not take is written by `flush`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.write(bytes);
        };
        tls.writer().write_all(bytes)?;
        flush(tls, &mut self.socket)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => flush(tls, &mut self.socket),
            None => Ok(()),
        }
    }
}

fn flush(tls: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
