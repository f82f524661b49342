//! Asset: a file of the dashboard's page.

use std::sync::LazyLock;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) content: Bytes,
    /// Quoted.
    pub(super) etag: String,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Names the files of the folder `assets`; the first one is the page itself.
macro_rules! assets {
    ($($name:literal, $file:literal, $content_type:expr;)*) => {
        static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| vec![
            $(Asset::new($name, $content_type, include_bytes!(concat!("assets/", $file))),)*
        ]);
    };
}

assets! {
    "", "index.html", "text/html; charset=utf-8";
    "dashboard.css", "dashboard.css", STYLE;
    "dashboard.js", "dashboard.js", SCRIPT;
    "connection.js", "connection.js", SCRIPT;
    "oneport.js", "../../../../../templates/static/oneport.js", SCRIPT;
    "dom.js", "dom.js", SCRIPT;
    "format.js", "format.js", SCRIPT;
    "plots.js", "plots.js", SCRIPT;
    "table.js", "table.js", SCRIPT;
    "overview.js", "overview.js", SCRIPT;
    "routes.js", "routes.js", SCRIPT;
    "sockets.js", "sockets.js", SCRIPT;
    "socket.js", "socket.js", SCRIPT;
    "groups.js", "groups.js", SCRIPT;
    "ends.js", "ends.js", SCRIPT;
    "processes.js", "processes.js", SCRIPT;
    "reload.js", "reload.js", SCRIPT;
    "icon.svg", "icon.svg", "image/svg+xml";
    "uplot.js", "vendor/uPlot.iife.min.js", SCRIPT;
    "uplot.css", "vendor/uPlot.min.css", STYLE;
    "uplot-license.txt", "vendor/LICENSE", "text/plain; charset=utf-8";
}

impl Asset {
    fn new(name: &'static str, content_type: &'static str, content: &'static [u8]) -> Self {
        let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(content)[..12]);
        Self {
            name,
            content_type,
            content: Bytes::from_static(content),
            etag: format!("\"{hash}\""),
        }
    }

    /// Returns the file of that name; "" is the page.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        ASSETS.iter().find(|asset| asset.name == name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use regex::Regex;

    use super::*;

    #[test]
    fn files_that_others_name_exist_and_none_is_left_over() {
        let named = Regex::new(r"\?file=([\w.-]+)").unwrap();
        let mut wanted = BTreeSet::from(["", "uplot-license.txt"]);
        for asset in ASSETS.iter() {
            let text = std::str::from_utf8(&asset.content).unwrap();
            for found in named.captures_iter(text) {
                wanted.insert(found.get(1).unwrap().as_str());
            }
        }
        let there: BTreeSet<&str> = ASSETS.iter().map(|asset| asset.name).collect();
        assert_eq!(wanted, there);
    }

    #[test]
    fn page_has_no_inline_script_or_style() {
        let page = std::str::from_utf8(&Asset::find("").unwrap().content).unwrap();
        for script in page.split("<script").skip(1) {
            let tag = script.split('>').next().unwrap();
            assert!(tag.contains(" src=\"?file="), "{tag}");
        }
        for text in ["<style", " style=", "onclick", "onload", "javascript:"] {
            assert!(!page.contains(text), "{text}");
        }
    }
}
