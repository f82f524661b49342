//! Options: what a route says about its files.

use http::HeaderValue;

use super::cache_control::{CacheControl, WrittenRule, value};
use super::is_servable;
use super::root::Symlinks;
use crate::config::{ConfigPath, OptionErrors};

/// The options of `static`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The directory, relative to the file that defines the route.
    pub(super) dir: ConfigPath,
    /// The parameter of the route that names the file.
    #[serde(default = "path")]
    pub(super) param: String,
    /// The file served for a directory; "" for none.
    #[serde(default = "index_html")]
    pub(super) index: String,
    /// The file served with 200 instead of a missing one, for single-page applications.
    #[serde(default)]
    pub(super) fallback: Option<String>,
    /// `Cache-Control` of existing files. The fallback always has `no-cache`.
    #[serde(default = "no_cache")]
    cache_control: String,
    /// `Cache-Control` by patterns of names.
    #[serde(default)]
    cache_rules: Vec<WrittenRule>,
    /// The charset of text files; "" omits it.
    #[serde(default = "utf_8")]
    pub(super) charset: String,
    /// Whether a directory without an index is listed.
    #[serde(default)]
    pub(super) listing: bool,
    /// Whether names that start with a dot are served.
    #[serde(default)]
    pub(super) dotfiles: Dotfiles,
    /// The rule for symbolic links.
    #[serde(default)]
    pub(super) symlinks: Symlinks,
}

/// The rule for names that start with a dot. `.well-known` is always served.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Dotfiles {
    /// They are 404.
    #[default]
    Deny,
    /// They are files as others.
    Allow,
}

/// `Cache-Control` of the fallback and of listings.
pub(super) const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

fn path() -> String {
    "path".to_owned()
}

fn index_html() -> String {
    "index.html".to_owned()
}

fn no_cache() -> String {
    "no-cache".to_owned()
}

fn utf_8() -> String {
    "utf-8".to_owned()
}

impl Options {
    /// Checks the options beyond their types. Returns the values of `Cache-Control`.
    pub(super) fn check(&self) -> Result<CacheControl, OptionErrors> {
        let mut errors = OptionErrors::default();
        let dir = self.dir.0.display().to_string();
        if !self.dir.0.is_dir() {
            errors.error("dir", format!("no such directory: {dir}"));
        }
        let default = value(&self.cache_control);
        if let Err(message) = &default {
            errors.error("cache_control", message.clone());
        }
        let mut cache_control = CacheControl::new(default.unwrap_or(NO_CACHE));
        for rule in &self.cache_rules {
            if let Err(message) = cache_control.push(rule) {
                errors.error("cache_rules", message);
            }
        }
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !self.charset.bytes().all(is_token) {
            let found = &self.charset;
            let message = format!("expected a charset such as \"utf-8\", found {found:?}");
            errors.error("charset", message);
        }
        for (key, name) in [
            ("index", Some(&self.index)),
            ("fallback", self.fallback.as_ref()),
        ] {
            if let Some(name) = name
                && !name.is_empty()
                && !is_servable(name, self.dotfiles)
            {
                let message = format!(
                    "expected the name of a file below {dir:?} that is neither hidden nor outside of it, found {name:?}"
                );
                errors.error(key, message);
            }
        }
        errors.into_result(cache_control)
    }

    /// Returns all that the fields of a file depend on, for the cache.
    pub(super) fn settings(&self) -> String {
        format!(
            "{:?}",
            (
                &self.dir.0,
                self.symlinks,
                &self.charset,
                &self.cache_control,
                &self.cache_rules,
            )
        )
    }
}
