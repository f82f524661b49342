//! Readings: the paths that other servers take a path for.
//!
//! The router takes a path as it is: `/admin%2Fusers` is one segment, and `//admin` is not
//! `/admin`. An application behind a proxy may decode the slash, merge the two, take a backslash
//! for a slash, ignore path parameters (`/admin;x/users`), or take the start of `//x/admin` for a
//! host. Then a path of one route would reach, in the application, what another route protects.

/// The maximum number of readings of a path. A path with more is ambiguous.
const READINGS_MAX: usize = 32;

/// One way in which servers read a path differently. Several of them can meet in one server, in any
/// order.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// An encoded slash ends a segment.
    DecodeSlashes,
    /// An encoded backslash is one.
    DecodeBackslashes,
    /// An encoded semicolon is one.
    DecodeSemicolons,
    /// A backslash is a slash.
    TurnBackslashes,
    /// A segment ends at its first semicolon.
    DropParameters,
    /// Empty segments do not count.
    MergeSlashes,
    /// Two slashes at the start begin a host, as in a URL without scheme.
    DropHost,
}

impl Way {
    const ALL: [Self; 7] = [
        Self::DecodeSlashes,
        Self::DecodeBackslashes,
        Self::DecodeSemicolons,
        Self::TurnBackslashes,
        Self::DropParameters,
        Self::MergeSlashes,
        Self::DropHost,
    ];

    /// Returns the reading of a path whose escapes are in capitals, `None` if it is the path.
    fn read(self, path: &str) -> Option<String> {
        let replace = |from: &str, to| path.contains(from).then(|| path.replace(from, to));
        match self {
            Self::DecodeSlashes => replace("%2F", "/"),
            Self::DecodeBackslashes => replace("%5C", "\\"),
            Self::DecodeSemicolons => replace("%3B", ";"),
            Self::TurnBackslashes => replace("\\", "/"),
            Self::DropParameters => path.contains(';').then(|| {
                let mut read = String::with_capacity(path.len());
                for (at, segment) in path.split('/').enumerate() {
                    if at > 0 {
                        read.push('/');
                    }
                    read.push_str(segment.split(';').next().unwrap_or_default());
                }
                read
            }),
            Self::MergeSlashes => path.contains("//").then(|| {
                let mut read = String::with_capacity(path.len());
                for found in path.chars() {
                    if found != '/' || !read.ends_with('/') {
                        read.push(found);
                    }
                }
                read
            }),
            Self::DropHost => {
                let host = path.strip_prefix("//")?;
                Some(host.find('/').map_or("/", |end| &host[end..]).to_owned())
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

/// Returns the other readings of a raw path: by each way, in each order. `None` if there are more
/// than `READINGS_MAX`.
pub(super) fn of(raw: &str) -> Option<Vec<String>> {
    let mut readings = vec![with_capitals(raw)];
    let mut at = 0;
    while let Some(path) = readings.get(at) {
        let found: Vec<String> = Way::ALL.iter().filter_map(|way| way.read(path)).collect();
        for read in found {
            if !readings.contains(&read) {
                readings.push(read);
            }
        }
        if readings.len() > READINGS_MAX {
            return None;
        }
        at += 1;
    }
    readings.remove(0);
    Some(readings)
}

/// Writes the escapes that are read differently in capitals.
fn with_capitals(raw: &str) -> String {
    raw.replace("%2f", "%2F")
        .replace("%5c", "%5C")
        .replace("%3b", "%3B")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(raw: &str) -> Vec<String> {
        let readings = of(raw).unwrap();
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
        check("/a%5cb", &["/a\\b", "/a/b"]);
        check("/a;x=1/b;/c", &["/a/b/c"]);
        check("/a%3bx/b", &["/a;x/b", "/a/b"]);
        check("/a//b///c/", &["/a/b/c/"]);
        check("//a", &["/a", "/"]);
        check("//a///b/", &["/a/b/", "///b/", "/b/"]);
        check("/%2Fa", &["//a", "/a", "/"]);
        check("/a/;%2Fb", &["/a/;/b", "/a/", "/a//b", "/a/b"]);
    }

    #[test]
    fn raw_and_encoded_are_ways_of_their_own() {
        let check = |raw: &str, expected: &str| {
            let readings = readings(raw);
            assert!(readings.iter().any(|read| read == expected), "{readings:?}");
        };
        check("/page\\a%5Cb", "/page/a%5Cb");
        check("/page\\a%5Cb", "/page/a/b");
        check("/a;x%3By/b%3Bz", "/a/b%3Bz");
        check("/a;x%3By/b%3Bz", "/a/b");
    }

    #[test]
    fn ways_apply_in_any_order() {
        let check = |raw: &str, expected: &str| {
            let readings = readings(raw);
            assert!(readings.iter().any(|read| read == expected), "{readings:?}");
        };
        // Parameters are dropped first, slashes decoded then.
        check("/users%2F7%2Fdelete;%2Fz", "/users/7/delete");
        check("/users\\7\\delete;\\z", "/users/7/delete");
        check("/;a\\b", "/b");
        check("/;a\\b", "/");
        check("/\\x/admin/y", "/admin/y");
        check("/%2fx/admin/y", "/admin/y");
        check("/a;b%2Fc\\d//e", "/a/c/d/e");
    }

    #[test]
    fn too_many_readings_are_none() {
        assert_eq!(of("/a;b%2Fc\\d//e%5Cf%3Bg"), None);
        assert_eq!(of(&"//a".repeat(READINGS_MAX)), None);
        assert!(of(&"//a".repeat(READINGS_MAX / 4)).is_some());
    }
}
