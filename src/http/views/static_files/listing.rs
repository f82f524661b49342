//! Listing: the entries of a directory as a page or as JSON.
//!
//! A page is rendered on a thread, for all requests that want it at the same time, and kept for a
//! second. Work and memory are bounded: of a directory with more names, the first ones are shown and
//! the others counted.

use std::collections::{BinaryHeap, HashMap};
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, header};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::{Dir, FileType};

use super::cache::unshared;
use super::joined_loads::JoinedLoads;
use super::options::NO_CACHE;
use super::root::Root;
use crate::clock::Millis;
use crate::http::form::wants_json;
use crate::http::{Body, Response};
use crate::scope::Scope;

/// The most entries of a listing: the first ones by name.
const ENTRIES_MAX: usize = 10_000;

/// The most names that are read of a directory.
const NAMES_MAX: usize = 1_000_000;

/// How long a listing is served after it was read.
const FRESH: Millis = 1_000;

/// The most bytes of listings that are kept.
const KEPT_BYTES_MAX: usize = 8 << 20;

/// Encodes a name as one segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.2rem;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%}\
th,td{padding:.25rem .5rem;text-align:left;border-bottom:1px solid #8884}\
td:first-child{overflow-wrap:anywhere}\
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}\
a{text-decoration:none}a:hover{text-decoration:underline}";

/// One entry of a directory.
#[derive(Debug)]
struct Listed {
    name: String,
    is_directory: bool,
    len: u64,
    modified: Option<SystemTime>,
}

/// The entries of a directory: directories first, then by name.
#[derive(Debug)]
struct Listing {
    entries: Vec<Listed>,
    /// How many more the directory has.
    left_out: usize,
    /// Whether it has even more.
    has_uncounted: bool,
}

/// The listings of a server.
#[derive(Debug, Default)]
pub(super) struct Listings {
    kept: Arc<Mutex<HashMap<Key, Rendered>>>,
    loads: JoinedLoads<Key, Result<Bytes, Arc<io::Error>>>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    space: u64,
    /// The directory, by its name with a slash at its end.
    name: String,
    /// The path of the request, which the page shows. Another host may have another directory there.
    path: String,
    form: Form,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Form {
    Page,
    Json,
}

#[derive(Debug)]
struct Rendered {
    body: Bytes,
    at: Millis,
}

impl Listings {
    /// Responds with a directory of a space, by its name with a slash at its end: with JSON if the
    /// client prefers it, otherwise with a page. Omits names that start with a dot, those that are
    /// not UTF-8, and what is neither a file nor a directory.
    pub(super) async fn respond(
        &self,
        (space, root): (u64, &Arc<Root>),
        name: &str,
        now: Millis,
        scope: &Scope,
    ) -> io::Result<Response> {
        let (form, content_type) = match wants_json(scope) {
            true => (Form::Json, "application/json"),
            false => (Form::Page, "text/html; charset=utf-8"),
        };
        let path = scope.path().into_owned();
        let key = Key {
            space,
            name: name.to_owned(),
            path,
            form,
        };
        let body = self.find(root, key, now).await?;
        let mut response = Response::new(Body::full(body));
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        fields.insert(header::CACHE_CONTROL, NO_CACHE);
        fields.insert(header::VARY, HeaderValue::from_static("accept"));
        fields.insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        fields.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
        );
        Ok(response)
    }

    pub(super) fn remove_space(&self, space: u64) {
        self.kept.lock().retain(|key, _| key.space != space);
    }

    fn kept(&self, key: &Key, now: Millis) -> Option<Bytes> {
        let kept = self.kept.lock();
        let rendered = kept.get(key).filter(|rendered| rendered.is_fresh(now));
        rendered.map(|rendered| rendered.body.clone())
    }

    async fn find(&self, root: &Arc<Root>, key: Key, now: Millis) -> io::Result<Bytes> {
        if let Some(body) = self.kept(&key, now) {
            return Ok(body);
        }
        let load = self.loads.join(key.clone(), || {
            let (kept, root) = (self.kept.clone(), root.clone());
            async move {
                let wanted = key.clone();
                let render = move |root: &Arc<Root>| {
                    let listing = read(root, &wanted.name)?;
                    Ok(match wanted.form {
                        Form::Page => listing.page(&wanted.path),
                        Form::Json => listing.json(),
                    })
                };
                let body = Bytes::from(root.run(render).await?);
                keep(&mut kept.lock(), key, &body, now);
                Ok(body)
            }
        });
        load.await.map_err(unshared)
    }
}

impl Rendered {
    fn is_fresh(&self, now: Millis) -> bool {
        now.saturating_sub(self.at) < FRESH
    }
}

/// Keeps a listing, if it fits beside those that are still served.
fn keep(kept: &mut HashMap<Key, Rendered>, key: Key, body: &Bytes, now: Millis) {
    kept.retain(|_, rendered| rendered.is_fresh(now));
    let bytes: usize = kept.values().map(|rendered| rendered.body.len()).sum();
    if bytes + body.len() <= KEPT_BYTES_MAX {
        let (body, at) = (body.clone(), now);
        kept.insert(key, Rendered { body, at });
    }
}

impl Listing {
    fn json(&self) -> String {
        let entries: Vec<_> = self
            .entries
            .iter()
            .map(|entry| {
                let kind = if entry.is_directory {
                    "directory"
                } else {
                    "file"
                };
                let mut listed = serde_json::json!({"name": entry.name, "type": kind});
                if !entry.is_directory {
                    listed["size"] = entry.len.into();
                }
                if let Some(modified) = entry.modified {
                    listed["modified"] = httpdate::fmt_http_date(modified).into();
                }
                listed
            })
            .collect();
        serde_json::json!({
            "entries": entries,
            "left_out": self.left_out,
            "has_uncounted": self.has_uncounted,
        })
        .to_string()
    }

    fn page(&self, path: &str) -> String {
        let path = escaped(path);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{path}</title><style>{STYLE}</style></head>\n<body><h1>{path}</h1>\n<table><thead><tr><th>Name</th><th class=\"n\">Size</th><th class=\"n\">Changed</th></tr></thead><tbody>\n"
        );
        if path != "/" {
            page.push_str("<tr><td><a href=\"../\">../</a></td><td></td><td></td></tr>\n");
        }
        for entry in &self.entries {
            let slash = if entry.is_directory { "/" } else { "" };
            let size = match entry.is_directory {
                true => String::new(),
                false => size(entry.len),
            };
            let modified = entry.modified.map(httpdate::fmt_http_date);
            // "./" keeps a name with a colon from being read as a scheme.
            let _ = writeln!(
                page,
                "<tr><td><a href=\"./{}{slash}\">{}{slash}</a></td><td class=\"n\">{size}</td><td class=\"n\">{}</td></tr>",
                utf8_percent_encode(&entry.name, SEGMENT),
                escaped(&entry.name),
                modified.unwrap_or_default(),
            );
        }
        page.push_str("</tbody></table>\n");
        let _ = match (self.left_out, self.has_uncounted) {
            (0, false) => Ok(()),
            (0, true) => writeln!(page, "<p>and more</p>"),
            (left_out, false) => writeln!(page, "<p>and {left_out} more</p>"),
            (left_out, true) => writeln!(page, "<p>and at least {left_out} more</p>"),
        };
        page.push_str("</body></html>\n");
        page
    }
}

fn read(root: &Root, name: &str) -> io::Result<Listing> {
    let (names, left_out, has_uncounted) = first_names(Dir::new(root.open_directory(name)?)?)?;
    let now = SystemTime::now();
    let mut entries = Vec::with_capacity(names.len());
    for entry in names {
        // A link that the rule forbids, or that leads nowhere, is not listed.
        let Ok(metadata) = root.metadata(&format!("{name}{entry}")) else {
            continue;
        };
        if !metadata.is_dir() && !metadata.is_file() {
            continue;
        }
        let modified = metadata.modified().ok();
        entries.push(Listed {
            name: entry,
            is_directory: metadata.is_dir(),
            len: metadata.len(),
            modified: modified.filter(|at| (SystemTime::UNIX_EPOCH..=now).contains(at)),
        });
    }
    entries.sort_by_key(|entry| !entry.is_directory); // stable: each kind stays sorted by name
    Ok(Listing {
        entries,
        left_out,
        has_uncounted,
    })
}

/// Returns the first names of a directory, sorted; how many more it has; and whether it has even
/// more, which were not read.
fn first_names(dir: Dir) -> io::Result<(Vec<String>, usize, bool)> {
    let mut first = BinaryHeap::new(); // its largest is on top
    let (mut left_out, mut has_uncounted) = (0, false);
    for (read, found) in dir.enumerate() {
        if read == NAMES_MAX {
            has_uncounted = true;
            break;
        }
        let found = found?;
        let Ok(name) = found.file_name().to_str() else {
            continue;
        };
        let is_listed = matches!(
            found.file_type(),
            FileType::RegularFile | FileType::Directory | FileType::Symlink | FileType::Unknown
        );
        if name.starts_with('.') || name.contains('\\') || !is_listed {
            continue;
        }
        first.push((name.to_lowercase(), name.to_owned()));
        if first.len() > ENTRIES_MAX {
            first.pop();
            left_out += 1;
        }
    }
    let first = first.into_sorted_vec().into_iter();
    let names = first.map(|(_, name)| name).collect();
    Ok((names, left_out, has_uncounted))
}

/// Returns a size with a unit.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut shown = bytes as f64 / 1024.0;
    let mut at = 0;
    while shown >= 1023.95 && at + 1 < units.len() {
        shown /= 1024.0;
        at += 1;
    }
    format!("{shown:.1} {}", units[at])
}

/// Escapes text for HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::root::Symlinks;
    use super::*;
    use crate::http::file_threads::FileThreads;

    fn rendered(bytes: usize, at: Millis) -> (Key, Bytes) {
        let key = Key {
            space: 1,
            name: String::new(),
            path: format!("/{at}/"),
            form: Form::Page,
        };
        (key, vec![b' '; bytes].into())
    }

    #[tokio::test]
    async fn listing_is_read_again_after_a_second_and_for_each_directory() {
        let directory = std::env::temp_dir().join(format!("oneport-list-{:x}", fastrand::u64(..)));
        let add = |name: &str| std::fs::write(directory.join(name), "").unwrap();
        std::fs::create_dir_all(directory.join("sub")).unwrap();
        let threads = FileThreads::default().of(&directory);
        let root = Root::new(directory.clone(), Symlinks::Inside, threads);
        let (root, listings) = (Arc::new(root), Listings::default());
        let find = async |name: &str, now| {
            let key = Key {
                space: 1,
                name: name.to_owned(),
                path: "/".to_owned(),
                form: Form::Json,
            };
            let body = listings.find(&root, key, now).await.unwrap();
            String::from_utf8(body.to_vec()).unwrap()
        };
        add("a.txt");
        let first = find("", 0).await;
        assert!(first.contains("a.txt"));
        add("b.txt");
        assert_eq!(find("", FRESH - 1).await, first);
        assert!(!find("sub/", FRESH - 1).await.contains("txt"));
        assert!(find("", FRESH).await.contains("b.txt"));
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn kept_listings_are_fresh_and_bounded_in_bytes() {
        let mut kept = HashMap::new();
        let mut add = |bytes, at| {
            let (key, body) = rendered(bytes, at);
            keep(&mut kept, key.clone(), &body, at);
            (kept.contains_key(&key), kept.len())
        };
        assert_eq!(add(KEPT_BYTES_MAX - 10, 0), (true, 1));
        assert_eq!(add(11, 1), (false, 1));
        assert_eq!(add(10, 2), (true, 2));
        assert_eq!(add(1, 3), (false, 2));
        assert_eq!(add(11, FRESH), (true, 2)); // the first has expired
        assert_eq!(add(KEPT_BYTES_MAX + 1, 3 * FRESH), (false, 0));
    }

    #[test]
    fn sizes_have_a_unit_and_one_digit() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
