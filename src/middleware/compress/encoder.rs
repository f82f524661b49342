//! Encoder: one compressed stream, in one of three codings.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zstd::stream::raw::CParameter;

use crate::http::encoding::Encoding;

/// The memory of all encoders of a server together, in MiB.
const MEMORY_MIB_MAX: usize = 128;

/// The window of brotli and zstd, as a power of two. A larger one compresses pages and JSON hardly
/// better, and takes memory for each response.
const WINDOW_BITS: u32 = 18;

/// The tables of zstd, as powers of two. Its own choice for the higher levels takes 10 MiB.
const ZSTD_TABLE_BITS: u32 = 17;

/// Brotli hands its output over in pieces of this size.
const BROTLI_BUFFER_BYTES: usize = 4096;

/// A compressed stream. Its output is collected, and taken in pieces.
pub(super) struct Encoder {
    coding: Coding,
    _memory: OwnedSemaphorePermit,
}

/// The encoders of a server, bounded by their memory; one value per server (`Services::shared`).
#[derive(Debug)]
pub(super) struct Encoders(Arc<Semaphore>);

impl Default for Encoders {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MEMORY_MIB_MAX)))
    }
}

enum Coding {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

/// Returns what an encoder may take, in MiB.
fn memory_mib(encoding: Encoding, level: u8) -> u32 {
    match (encoding, level) {
        (Encoding::Gzip, _) => 1,
        (Encoding::Zstd, _) | (Encoding::Brotli, ..=5) => 2,
        (Encoding::Brotli, 6) => 3,
        (Encoding::Brotli, 7) => 9,
        (Encoding::Brotli, 8) => 17,
        (Encoding::Brotli, _) => 33,
    }
}

impl Encoders {
    /// Creates an encoder; `None` if the others take all the memory.
    pub(super) fn create(&self, encoding: Encoding, level: u8) -> Option<io::Result<Encoder>> {
        let memory = self.0.clone();
        let memory = memory
            .try_acquire_many_owned(memory_mib(encoding, level))
            .ok()?;
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
        Some(coding.map(|coding| Encoder {
            coding,
            _memory: memory,
        }))
    }
}

impl Encoder {
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
    encoder.set_parameter(CParameter::HashLog(ZSTD_TABLE_BITS))?;
    encoder.set_parameter(CParameter::ChainLog(ZSTD_TABLE_BITS))?;
    Ok(encoder)
}
