//! Encoding: the content codings that a client accepts (RFC 9110 §12.5.3).

use http::header;

use crate::scope::Headers;

/// A content coding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Encoding {
    Brotli,
    Zstd,
    Gzip,
}

impl Encoding {
    /// In our order of preference, which decides if a client gives several the same weight.
    pub(crate) const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// Returns the name in `Accept-Encoding` and `Content-Encoding`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// Returns the suffix of a precompressed file's name.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
        }
    }
}

/// The codings that a client weighs at least as high as the plain representation, the best first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Accepted {
    /// With their weights, in thousandths.
    weighed: [Option<(u16, Encoding)>; 3],
}

impl Accepted {
    /// Returns the coding with the highest weight among `offered`, whose order decides between
    /// equal weights; `None` if the client accepts none of them.
    pub(crate) fn first_of(&self, offered: &[Encoding]) -> Option<Encoding> {
        let mut best: Option<(u16, Encoding)> = None;
        for encoding in offered {
            let mut known = self.weighed.iter().flatten().rev();
            let found = known.find(|(_, known)| known == encoding);
            if let Some(&(weight, _)) = found
                && best.is_none_or(|(highest, _)| weight > highest)
            {
                best = Some((weight, *encoding));
            }
        }
        best.map(|(_, encoding)| encoding)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Encoding> + '_ {
        self.weighed.iter().flatten().map(|(_, encoding)| *encoding)
    }
}

/// Returns the codings that a request accepts.
pub(crate) fn accepted(headers: &Headers) -> Accepted {
    if headers.get(&header::ACCEPT_ENCODING).is_none() {
        return Accepted::default();
    }
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
        } else if let Some(at) = Encoding::ALL
            .iter()
            .position(|known| is(known.name()) || (*known == Encoding::Gzip && is("x-gzip")))
        {
            weights[at] = weights[at].or(Some(weight));
        }
    }
    // If `identity` is not listed, the plain file is acceptable but ranks below the listed codings.
    let identity = identity.unwrap_or(0);
    let mut weighed = [0, 1, 2].map(|at| {
        let weight = weights[at].or(any).unwrap_or(0);
        let is_liked = weight > 0 && weight >= identity;
        is_liked.then_some((weight, Encoding::ALL[at]))
    });
    // A stable sort keeps our order.
    weighed.sort_by_key(|found| std::cmp::Reverse(found.map_or(0, |(weight, _)| weight)));
    Accepted { weighed }
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
                .iter()
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
