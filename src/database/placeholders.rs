//! Placeholders: `$1` and so on in the text of a query.

/// Returns a query with each `$1` and so on replaced by what `put` appends. Quoted names and
/// strings stay unchanged.
pub(super) fn replace_placeholders(
    sql: &str,
    mut put: impl FnMut(&mut String, usize) -> Result<(), sqlx::Error>,
) -> Result<String, sqlx::Error> {
    let mut filled = String::with_capacity(2 * sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find(['$', '"', '\'', '`']) {
        let (before, found) = rest.split_at(at);
        filled.push_str(before);
        let Some(number) = found.strip_prefix('$') else {
            // A doubled quote ends the string and begins it again, which has the same effect.
            let end = found[1..]
                .find(&found[..1])
                .map_or(found.len(), |end| end + 2);
            filled.push_str(&found[..end]);
            rest = &found[end..];
            continue;
        };
        let end = number
            .find(|next: char| !next.is_ascii_digit())
            .unwrap_or(number.len());
        let (number, after) = number.split_at(end);
        let index = number.parse::<usize>().ok();
        let index = index.and_then(|number| number.checked_sub(1));
        let Some(index) = index else {
            let cause = format!("expected the number of a value, found ${number}");
            return Err(sqlx::Error::Encode(cause.into()));
        };
        put(&mut filled, index)?;
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The error for a placeholder without a value.
pub(super) fn missing_value(index: usize, count: usize) -> sqlx::Error {
    let number = index + 1;
    sqlx::Error::Encode(format!("expected a value for ${number}, found {count} values").into())
}
