//! Encoder: one compressed stream, in one of three codings.

use std::io::{self, Write};
use std::sync::LazyLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{Semaphore, SemaphorePermit};
use zstd::stream::raw::CParameter;

use crate::http::encoding::Encoding;

/// The most encoders at once. Each takes up to 2 MiB.
const ENCODERS_MAX: usize = 64;

/// The window of brotli and zstd, as a power of two. A larger one compresses pages and JSON hardly
/// better, and takes memory for each response.
const WINDOW_BITS: u32 = 18;

/// Brotli hands its output over in pieces of this size.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// A compressed stream. Its output is collected, and taken in pieces.
pub(super) struct Encoder {
    coding: Coding,
    _permit: SemaphorePermit<'static>,
}

enum Coding {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

fn permits() -> &'static Semaphore {
    static PERMITS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(ENCODERS_MAX));
    &PERMITS
}

impl Encoder {
    /// Returns `None` if there are as many encoders as there may be.
    pub(super) fn new(encoding: Encoding, level: u8) -> Option<io::Result<Self>> {
        let permit = permits().try_acquire().ok()?;
        let coding = match encoding {
            Encoding::Brotli => Ok(Coding::Brotli(Box::new(brotli::CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER_BYTES,
                level.into(),
                WINDOW_BITS,
            )))),
            Encoding::Zstd => zstd_encoder(level).map(Coding::Zstd),
            Encoding::Gzip => {
                let level = Compression::new(level.into());
                Ok(Coding::Gzip(GzEncoder::new(Vec::new(), level)))
            }
        };
        Some(coding.map(|coding| Self {
            coding,
            _permit: permit,
        }))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.coding {
            Coding::Brotli(encoder) => encoder.write_all(bytes),
            Coding::Zstd(encoder) => encoder.write_all(bytes),
            Coding::Gzip(encoder) => encoder.write_all(bytes),
        }
    }

    /// Completes a block, so that a client can decode all that was written.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.coding {
            Coding::Brotli(encoder) => encoder.flush(),
            Coding::Zstd(encoder) => encoder.flush(),
            Coding::Gzip(encoder) => encoder.flush(),
        }
    }

    /// Takes the output so far.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(match &mut self.coding {
            Coding::Brotli(encoder) => encoder.get_mut(),
            Coding::Zstd(encoder) => encoder.get_mut(),
            Coding::Gzip(encoder) => encoder.get_mut(),
        })
    }

    /// Ends the stream, and returns the output that was not taken.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self.coding {
            Coding::Brotli(encoder) => Ok(encoder.into_inner()),
            Coding::Zstd(encoder) => encoder.finish(),
            Coding::Gzip(encoder) => encoder.finish(),
        }
    }
}

fn zstd_encoder(level: u8) -> io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level.into())?;
    encoder.set_parameter(CParameter::WindowLog(WINDOW_BITS))?;
    Ok(encoder)
}
