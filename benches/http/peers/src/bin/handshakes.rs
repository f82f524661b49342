//! Load: opens TLS connections without resumption, sends one request on each and closes it.
//!
//! Arguments: the port, the seconds, the connections at a time, the certificate to trust. Prints
//! the number of connections. Fails when one of them gets another response than the fixed text.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const REQUEST: &[u8] = b"GET /plain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = http_peers::argument(1, "a port")?.parse()?;
    let seconds: f64 = http_peers::argument(2, "seconds")?.parse()?;
    let connections: usize = http_peers::argument(3, "a number of connections")?.parse()?;
    let trusted = http_peers::argument(4, "a certificate")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted)?)?;
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let total = runtime.block_on(async {
        let mut clients = JoinSet::new();
        for _ in 0..connections {
            let connector = connector.clone();
            clients.spawn(async move {
                let mut made = 0_u64;
                while Instant::now() < until {
                    one(port, &connector).await?;
                    made += 1;
                }
                Outcome::Ok(made)
            });
        }
        let made: Outcome<Vec<u64>> = clients.join_all().await.into_iter().collect();
        made.map(|made| made.into_iter().sum::<u64>())
    });
    println!("{}", total.map_err(|error| error.to_string())?);
    Ok(())
}

async fn one(port: u16, connector: &TlsConnector) -> Outcome<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost")?;
    let mut stream = connector.connect(name, stream).await?;
    stream.write_all(REQUEST).await?;
    let mut response = Vec::with_capacity(1024);
    stream.read_to_end(&mut response).await?;
    let is_right =
        response.starts_with(b"HTTP/1.1 200") && response.ends_with(http_peers::TEXT.as_bytes());
    match is_right {
        true => Ok(()),
        false => Err(format!("found {:?}", String::from_utf8_lossy(&response)).into()),
    }
}
