//! Compressed messages (RFC 7692), each by itself: the offer asks for no context takeover on either
//! side.

use anyhow::{Result, ensure};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

pub const OFFER: &str =
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover";

/// The end of a flushed block, omitted on the wire (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

pub fn compress(message: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(message.len() + 64);
    Compress::new(Compression::fast(), false).compress_vec(
        message,
        &mut out,
        FlushCompress::Sync,
    )?;
    ensure!(out.ends_with(&TAIL), "a message was not compressed whole");
    out.truncate(out.len() - TAIL.len());
    Ok(out)
}

/// The message, which must not be longer than `length_max`.
pub fn decompress(payload: &[u8], length_max: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(length_max + 1);
    let input = [payload, &TAIL].concat();
    Decompress::new(false).decompress_vec(&input, &mut out, FlushDecompress::Sync)?;
    ensure!(
        out.len() <= length_max,
        "a message is longer than what was sent"
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        let message = br#"{"id":1,"text":"aaaaaaaaaaaaaaaaaaaaaaaa"}"#.repeat(20);
        let payload = compress(&message).expect("compressed");
        assert!(payload.len() < message.len() / 4);
        assert_eq!(
            decompress(&payload, message.len()).expect("decompressed"),
            message
        );
    }
}
