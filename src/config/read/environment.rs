//! Environment variables inside strings: `${NAME}`, `${NAME:-fallback}`, and `$$` for a plain `$`.

/// The source of `${NAME}`'s values; [`process_environment`] outside of tests.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads an environment variable of this process. A value that is not UTF-8 counts as unset.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A string with its variables expanded.
#[derive(Debug)]
pub(in crate::config) struct Expanded {
    pub(in crate::config) text: String,
    /// The variables that were used, with their values, so that messages can hide secret ones.
    pub(in crate::config) variables: Vec<(String, String)>,
}

/// Why a string's variables cannot be expanded.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(in crate::config) enum ExpandError {
    #[error("environment variable {0} is not set")]
    Missing(String),
    #[error("expected a variable name of letters, digits and _ between ${{ and }}, found {0:?}")]
    Name(String),
    #[error("expected a }} that ends the ${{")]
    Open,
}

impl ExpandError {
    /// Returns what to do about it.
    pub(in crate::config) fn hint(&self) -> String {
        match self {
            Self::Missing(name) => format!("set it, or write ${{{name}:-fallback}}"),
            Self::Name(_) | Self::Open => "write $$ for a plain $".to_owned(),
        }
    }
}

/// Expands the variables of one string.
///
/// As in a shell, the fallback of `${NAME:-fallback}` also replaces a variable that is set but
/// empty. The fallback ends at the next `}` and is not expanded itself.
pub(in crate::config) fn expand(text: &str, env: Env<'_>) -> Result<Expanded, ExpandError> {
    let mut expanded = Expanded {
        text: String::with_capacity(text.len()),
        variables: Vec::new(),
    };
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.text.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(after) = after.strip_prefix('$') {
            expanded.text.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (inside, after) = after.split_once('}').ok_or(ExpandError::Open)?;
            expanded
                .text
                .push_str(&variable(inside, env, &mut expanded.variables)?);
            rest = after;
        } else {
            expanded.text.push('$');
            rest = after;
        }
    }
    expanded.text.push_str(rest);
    Ok(expanded)
}

/// Looks up the text between `${` and `}`.
fn variable(
    inside: &str,
    env: Env<'_>,
    variables: &mut Vec<(String, String)>,
) -> Result<String, ExpandError> {
    let (name, fallback) = match inside.split_once(":-") {
        Some((name, fallback)) => (name, Some(fallback)),
        None => (inside, None),
    };
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty()
        || name.starts_with(|c: char| c.is_ascii_digit())
        || !name.bytes().all(letters)
    {
        return Err(ExpandError::Name(name.to_owned()));
    }
    let value = match (env(name), fallback) {
        (Some(value), None) => value,
        (Some(value), Some(_)) if !value.is_empty() => value,
        (_, Some(fallback)) => fallback.to_owned(),
        (None, None) => return Err(ExpandError::Missing(name.to_owned())),
    };
    variables.push((name.to_owned(), value.clone()));
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in() {
        let check = |text: &str, expected: &str| {
            assert_eq!(expand(text, &env).unwrap().text, expected, "{text}");
        };
        check("plain", "plain");
        check("https://${HOST}/x", "https://example.com/x");
        check("${HOST}${HOST}", "example.comexample.com");
        check("${NONE:-7}", "7");
        check("${NONE:-}", "");
        check("${EMPTY}", "");
        check("${EMPTY:-x}", "x");
        check("^/a/$", "^/a/$");
        check("$$", "$");
        check("$${HOST}", "${HOST}");
        check("$HOST", "$HOST");
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(expand("${TRICK}", &env).unwrap().text, "${HOST}");
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        let check = |text: &str, expected: ExpandError| {
            assert_eq!(expand(text, &env).unwrap_err(), expected, "{text}");
        };
        check("${NONE}", ExpandError::Missing("NONE".into()));
        check("${HOST", ExpandError::Open);
        check("${}", ExpandError::Name(String::new()));
        check("a${1}", ExpandError::Name("1".into()));
        check("${HO ST}", ExpandError::Name("HO ST".into()));
    }
}
