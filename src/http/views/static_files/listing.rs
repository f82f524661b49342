//! Listing: the entries of a directory as a page or as JSON.

use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::Dir;

use super::options::NO_CACHE;
use super::root::Root;
use crate::http::form::wants_json;
use crate::http::{Body, Failure, Response};
use crate::scope::Scope;

/// A directory with more entries is not listed completely.
const ENTRIES_MAX: usize = 10_000;

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
pub(super) struct Listing {
    entries: Vec<Listed>,
    /// Whether the directory has more entries.
    has_more: bool,
}

impl Listing {
    /// Reads a directory, by its name with a slash at its end, on a thread. Omits names that start
    /// with a dot, those that are not UTF-8, and what is neither a file nor a directory.
    pub(super) async fn read(root: &Arc<Root>, name: &str) -> io::Result<Self> {
        let name = name.to_owned();
        root.run(move |root| read(root, &name)).await
    }

    /// Returns the response: JSON if the client prefers it, otherwise a page.
    pub(super) fn respond(&self, scope: &Scope) -> Result<Response, Failure> {
        let (content_type, body) = match wants_json(scope) {
            true => ("application/json", self.json()),
            false => ("text/html; charset=utf-8", self.page(&scope.path())),
        };
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
        serde_json::json!({"entries": entries, "has_more": self.has_more}).to_string()
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
        if self.has_more {
            let _ = writeln!(page, "<p>and more than these {ENTRIES_MAX}</p>");
        }
        page.push_str("</body></html>\n");
        page
    }
}

fn read(root: &Root, name: &str) -> io::Result<Listing> {
    let mut entries = Vec::new();
    let mut has_more = false;
    let now = SystemTime::now();
    for found in Dir::new(root.open_directory(name)?)? {
        let found = found?;
        let Ok(entry) = found.file_name().to_str() else {
            continue;
        };
        if entry.starts_with('.') || entry.contains('\\') {
            continue;
        }
        // A link that the rule forbids, or that leads nowhere, is not listed.
        let Ok(metadata) = root.metadata(&format!("{name}{entry}")) else {
            continue;
        };
        if !metadata.is_dir() && !metadata.is_file() {
            continue;
        }
        if entries.len() == ENTRIES_MAX {
            has_more = true;
            break;
        }
        entries.push(Listed {
            name: entry.to_owned(),
            is_directory: metadata.is_dir(),
            len: metadata.len(),
            modified: metadata
                .modified()
                .ok()
                .filter(|at| (SystemTime::UNIX_EPOCH..=now).contains(at)),
        });
    }
    entries.sort_by_cached_key(|entry| {
        let folded = entry.name.to_lowercase();
        (!entry.is_directory, folded, entry.name.clone())
    });
    Ok(Listing { entries, has_more })
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
    use super::*;

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
