//! Suggestions: the known word nearest to an unknown one.

/// Returns the known word nearest to `word`, if it is near enough to be a typo.
///
/// Upper and lower case are equal, and so are `-` and `_`.
///
/// ```
/// assert_eq!(oneport::config::nearest("caht", ["backend", "chat", "echo"]), Some("chat"));
/// assert_eq!(oneport::config::nearest("banana", ["backend", "chat", "echo"]), None);
/// ```
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &plain(candidate)),
                candidate,
            )
        })
        .filter(|(distance, candidate)| {
            *distance <= allowed && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns `did you mean "chat"?` if a known word is near: the usual hint of a
/// [`Problem`](crate::config::Problem).
///
/// ```
/// assert_eq!(oneport::config::did_you_mean("caht", ["chat", "echo"]).as_deref(), Some(r#"did you mean "chat"?"#));
/// ```
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    nearest(word, known).map(|candidate| format!("did you mean {candidate:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_near_words() {
        let known = ["consumer", "path", "allowed_hosts", "view"];
        let check =
            |word, expected: Option<&str>| assert_eq!(nearest(word, known), expected, "{word}");
        check("consumr", Some("consumer"));
        check("Consumer", Some("consumer"));
        check("allowed-hosts", Some("allowed_hosts"));
        check("paht", Some("path"));
        check("veiw", Some("view"));
        check("x", None);
        check("", None);
        check("timeout", None);
    }
}
