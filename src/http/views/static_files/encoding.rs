//! Encoding: the precompressed files that a client accepts (RFC 9110 §12.5.3).

use http::header;

use crate::scope::Headers;

/// The coding of a precompressed file next to the plain one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Encoding {
    Brotli,
    Zstd,
    Gzip,
}

/// In our order of preference, which decides if a client gives several the same weight.
const ALL: [Encoding; 3] = [Encoding::Brotli, Encoding::Zstd, Encoding::Gzip];

impl Encoding {
    /// Returns the name in `Accept-Encoding` and `Content-Encoding`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// Returns the suffix of the file name.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// Returns the codings that the client weighs at least as high as the plain file, the best first.
pub(super) fn accepted(headers: &Headers) -> Vec<Encoding> {
    let mut weights: [Option<u16>; 3] = [None; 3];
    let (mut identity, mut any) = (None, None);
    let fields = headers.all(&header::ACCEPT_ENCODING);
    for element in fields.flat_map(|field| field.split(|byte| *byte == b',')) {
        let mut parts = element.split(|byte| *byte == b';');
        let name = parts.next().unwrap_or_default().trim_ascii();
        let weight = parts.find_map(weight).unwrap_or(1000);
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("*") {
            any = any.or(Some(weight));
        } else if is("identity") {
            identity = identity.or(Some(weight));
        } else if let Some(at) = ALL
            .iter()
            .position(|known| is(known.name()) || (*known == Encoding::Gzip && is("x-gzip")))
        {
            weights[at] = weights[at].or(Some(weight));
        }
    }
    // If `identity` is not listed, the plain file is acceptable but ranks below the listed codings.
    let identity = identity.unwrap_or(0);
    let mut liked: Vec<(u16, Encoding)> = ALL
        .into_iter()
        .zip(weights)
        .map(|(encoding, weight)| (weight.or(any).unwrap_or(0), encoding))
        .filter(|(weight, _)| *weight > 0 && *weight >= identity)
        .collect();
    liked.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight)); // stable sort keeps our order
    liked.into_iter().map(|(_, encoding)| encoding).collect()
}

/// Parses `q=0.5` in thousandths; `None` for another parameter. A malformed weight is 0, so the
/// coding is not used.
fn weight(parameter: &[u8]) -> Option<u16> {
    let parameter = parameter.trim_ascii();
    let value = parameter
        .strip_prefix(b"q=")
        .or_else(|| parameter.strip_prefix(b"Q="))?;
    let weight = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse::<f32>().ok())
        .filter(|weight| (0.0..=1.0).contains(weight))
        .unwrap_or(0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 1000"
    )]
    Some((weight * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn weights_decide_and_then_our_own_order() {
        let check = |field: &str, expected: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, field.parse().unwrap());
            let found: Vec<_> = accepted(&headers.into())
                .into_iter()
                .map(Encoding::name)
                .collect();
            assert_eq!(found, expected, "{field}");
        };
        check("", &[]);
        check("identity", &[]);
        check("gzip", &["gzip"]);
        check("x-gzip", &["gzip"]);
        check("gzip, deflate, br, zstd", &["br", "zstd", "gzip"]);
        check("GZIP;Q=1, BR;q=0.5", &["gzip", "br"]);
        check("gzip;q=0, br", &["br"]);
        check("*", &["br", "zstd", "gzip"]);
        check("*;q=0.5, gzip", &["gzip", "br", "zstd"]);
        check("*;q=0, gzip", &["gzip"]);
        check("br;q=0.2, identity;q=0.5, gzip;q=0.8", &["gzip"]);
        check("br;q=2, gzip;q=nan, zstd;q=", &[]);
        check("br;level=4;q=0.3", &["br"]);
    }
}
