//! Readings: the paths that other servers take a path for.
//!
//! The router takes a path as it is: `/admin%2Fusers` is one segment, and `//admin` is not
//! `/admin`. An application behind a proxy may decode the slash, merge the two, take a backslash
//! for a slash, or ignore path parameters (`/admin;x/users`). Then a path of one route would reach,
//! in the application, what another route protects.

use std::borrow::Cow;

use super::canonical::CanonicalPath;

/// One way in which servers read a path differently. Several of them can meet in one server; they
/// apply in this order.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// An encoded slash ends a segment.
    DecodeSlashes,
    /// A backslash, plain or encoded, is a slash.
    TurnBackslashes,
    /// A segment ends at its first semicolon.
    DropParameters,
    /// Empty segments do not count.
    MergeSlashes,
}

impl Way {
    const ALL: [Self; 4] = [
        Self::DecodeSlashes,
        Self::TurnBackslashes,
        Self::DropParameters,
        Self::MergeSlashes,
    ];

    fn read(self, path: &str) -> String {
        match self {
            Self::DecodeSlashes => path.replace("%2F", "/"),
            Self::TurnBackslashes => path.replace('\\', "/"),
            Self::DropParameters => {
                let mut read = String::with_capacity(path.len());
                for (at, segment) in path.split('/').enumerate() {
                    if at > 0 {
                        read.push('/');
                    }
                    read.push_str(segment.split(';').next().unwrap_or_default());
                }
                read
            }
            Self::MergeSlashes => {
                let mut read = String::with_capacity(path.len());
                for found in path.chars() {
                    if found != '/' || !read.ends_with('/') {
                        read.push(found);
                    }
                }
                read
            }
        }
    }
}

/// Returns whether a raw path may have other readings. Most paths have none.
pub(super) fn may_have(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| match byte {
        b'\\' | b';' => true,
        b'/' => bytes.get(at + 1) == Some(&b'/'),
        b'%' => matches!(
            bytes.get(at + 1..at + 3),
            Some([b'2', b'f' | b'F'] | [b'5', b'c' | b'C'] | [b'3', b'b' | b'B'])
        ),
        _ => false,
    })
}

/// Returns the other readings of a path, at most fifteen.
pub(super) fn of(path: &CanonicalPath<'_>) -> Vec<String> {
    let mut readings: Vec<Cow<'_, str>> = vec![Cow::Borrowed(path.as_str())];
    for way in Way::ALL {
        for at in 0..readings.len() {
            let read = way.read(&readings[at]);
            if readings.iter().all(|known| *known != read) {
                readings.push(Cow::Owned(read));
            }
        }
    }
    readings.drain(..1);
    readings.into_iter().map(Cow::into_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(raw: &str) -> Vec<String> {
        let path = CanonicalPath::parse(raw).unwrap();
        let readings = of(&path);
        assert!(may_have(raw) || readings.is_empty(), "{raw}: {readings:?}");
        readings
    }

    #[test]
    fn each_way_and_each_combination_is_a_reading() {
        let check = |raw: &str, expected: &[&str]| assert_eq!(readings(raw), expected, "{raw}");
        check("/", &[]);
        check("/a%20b/c.%C3%A9/%25", &[]);
        check("/a%2fb", &["/a/b"]);
        check("/a%252Fb", &[]);
        check("/a\\b%5Cc", &["/a/b/c"]);
        check("/a;x=1/b;/c", &["/a/b/c"]);
        check("/a%3bx/b", &["/a/b"]);
        check("//a///b/", &["/a/b/"]);
        check("/%2Fa", &["//a", "/a"]);
        check("/a/;%2Fb", &["/a/;/b", "/a/", "/a//b", "/a/b"]);
        check("/;a\\b", &["/;a/b", "/", "//b", "/b"]);
        let most = readings("/a;b%2Fc\\d//e");
        assert!(most.len() <= 15, "{most:?}");
        assert_eq!(most.last().unwrap(), "/a/c/d/e");
    }
}
