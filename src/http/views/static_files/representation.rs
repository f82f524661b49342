//! Representation: one state of a file in one coding, with the header fields of its responses.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::root::{Identity, NamedFile, Root};
use crate::http::conditional::Validators;
use crate::http::encoding::Encoding;
use crate::http::open_file::OpenFile;
use crate::net::descriptors;

/// Files up to this size are kept in memory; the kernel sends larger ones.
pub(super) const MEMORY_BYTES_MAX: u64 = 64 * 1024;

/// A file is kept only if it has not changed for this long: within one tick of its clock a file
/// system may show two states of a file with one modification time.
const SETTLED: Duration = Duration::from_secs(1);

/// One state of a file in one coding.
#[derive(Debug)]
pub(super) struct Representation {
    pub(super) named: Arc<NamedFile>,
    pub(super) encoding: Option<Encoding>,
    pub(super) len: u64,
    pub(super) validators: Validators,
    /// The fields of a 200, without those of its length.
    pub(super) fields: HeaderMap,
    pub(super) content: Stored,
    /// Whether the file is unchanged for long enough to be kept.
    pub(super) is_settled: bool,
}

/// Where the bytes of a representation are.
#[derive(Debug)]
pub(super) enum Stored {
    Memory(Bytes),
    /// Open, one descriptor for all requests.
    Open(Arc<OpenFile>),
    /// Opened for each read: the process has no descriptor to spare.
    Closed,
}

/// The fields that do not depend on the state of the file.
#[derive(Debug)]
pub(super) struct FixedFields {
    pub(super) content_type: HeaderValue,
    pub(super) cache_control: HeaderValue,
}

impl Representation {
    /// Opens a file, and reads it if it is small.
    pub(super) fn open(
        root: &Arc<Root>,
        name: &str,
        encoding: Option<Encoding>,
        fixed: &FixedFields,
    ) -> io::Result<Self> {
        let name: Box<str> = match encoding {
            Some(encoding) => [name, encoding.suffix()].concat().into(),
            None => name.into(),
        };
        let (file, metadata) = root.open(&name)?;
        let (now, len) = (SystemTime::now(), metadata.len());
        let modified = metadata.modified().ok();
        let validators = validators(modified, len, encoding, now);
        let content = match len <= MEMORY_BYTES_MAX {
            true => Stored::Memory(read(&file, len)?),
            false => match descriptors::sent_files().try_acquire() {
                Ok(permit) => Stored::Open(Arc::new(OpenFile::new(file, permit, root.threads()))),
                Err(_) => Stored::Closed,
            },
        };
        let identity = Identity::of(&metadata);
        Ok(Self {
            fields: fields(&validators, encoding, fixed)?,
            named: Arc::new(NamedFile {
                root: root.clone(),
                name,
                identity,
            }),
            encoding,
            len,
            validators,
            content,
            is_settled: modified.is_some_and(|modified| {
                now.duration_since(modified).is_ok_and(|age| age >= SETTLED)
            }),
        })
    }

    /// Returns whether an open file is still in the state that the fields describe. A file that may
    /// wait for a network is not asked.
    pub(super) fn is_as_opened(&self) -> bool {
        match &self.content {
            Stored::Open(open) if open.tells_waits() => open
                .metadata()
                .is_ok_and(|metadata| Identity::of(&metadata) == self.named.identity),
            _ => true,
        }
    }

    /// Returns whether the name still leads to this state. May wait for the file system.
    pub(super) fn is_current(&self) -> bool {
        let metadata = self.named.root.metadata(&self.named.name);
        metadata.is_ok_and(|metadata| Identity::of(&metadata) == self.named.identity)
    }

    /// Returns the media type with its charset.
    pub(super) fn content_type(&self) -> &str {
        let field = self.fields.get(header::CONTENT_TYPE);
        field
            .and_then(|field| field.to_str().ok())
            .unwrap_or_default()
    }
}

fn read(file: &File, len: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, 0)?;
    Ok(buffer.into())
}

fn fields(
    validators: &Validators,
    encoding: Option<Encoding>,
    fixed: &FixedFields,
) -> io::Result<HeaderMap> {
    let mut fields = HeaderMap::with_capacity(8);
    let value = |text: &str| HeaderValue::from_str(text).map_err(io::Error::other);
    fields.insert(header::ETAG, value(&validators.etag)?);
    if let Some(modified) = validators.modified {
        let modified = httpdate::fmt_http_date(modified);
        fields.insert(header::LAST_MODIFIED, value(&modified)?);
    }
    fields.insert(header::CACHE_CONTROL, fixed.cache_control.clone());
    fields.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if let Some(encoding) = encoding {
        let name = HeaderValue::from_static(encoding.name());
        fields.insert(header::CONTENT_ENCODING, name);
    }
    fields.insert(header::CONTENT_TYPE, fixed.content_type.clone());
    Ok(fields)
}

/// Returns a file's validators. The entity tag consists of the modification time, in nanoseconds,
/// and the length: changed content gets another tag unless the time is set back.
fn validators(
    modified: Option<SystemTime>,
    len: u64,
    encoding: Option<Encoding>,
    now: SystemTime,
) -> Validators {
    let age = modified.map(|at| match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => format!("{:x}", since.as_nanos()),
        Err(before) => format!("-{:x}", before.duration().as_nanos()),
    });
    let encoding = encoding.map_or(String::new(), |encoding| format!("-{}", encoding.name()));
    let etag = format!("\"{}-{len:x}{encoding}\"", age.unwrap_or_default());
    Validators::new(etag, modified, now)
}
