//! Makes a certificate for localhost: the arguments are the files of the certificate and its key.

use std::error::Error;
use std::fs;

use rcgen::{CertifiedKey, generate_simple_self_signed};

fn main() -> Result<(), Box<dyn Error>> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names)?;
    fs::write(
        http_peers::argument(1, "the certificate's file")?,
        cert.pem(),
    )?;
    let key = signing_key.serialize_pem();
    fs::write(http_peers::argument(2, "the key's file")?, key)?;
    Ok(())
}
