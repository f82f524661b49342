//! Places: where the values `$1` and so on stand in the text of a query.

/// Writes a query anew, with what `put` appends in place of `$1` and so on. Names and texts in quotes stay as they are.
pub(super) fn fill(
    sql: &str,
    mut put: impl FnMut(&mut String, usize) -> Result<(), sqlx::Error>,
) -> Result<String, sqlx::Error> {
    let mut filled = String::with_capacity(2 * sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find(['$', '"', '\'', '`']) {
        let (before, found) = rest.split_at(at);
        filled.push_str(before);
        let Some(place) = found.strip_prefix('$') else {
            // A doubled quote inside ends it and begins it again, which comes to the same.
            let end = found[1..]
                .find(&found[..1])
                .map_or(found.len(), |end| end + 2);
            filled.push_str(&found[..end]);
            rest = &found[end..];
            continue;
        };
        let end = place
            .find(|next: char| !next.is_ascii_digit())
            .unwrap_or(place.len());
        let (place, after) = place.split_at(end);
        let index = place.parse::<usize>().ok();
        let index = index.and_then(|place| place.checked_sub(1));
        let Some(index) = index else {
            let cause = format!("expected the number of a value, found ${place}");
            return Err(sqlx::Error::Encode(cause.into()));
        };
        put(&mut filled, index)?;
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// A place without a value.
pub(super) fn missing(index: usize, count: usize) -> sqlx::Error {
    let place = index + 1;
    sqlx::Error::Encode(format!("expected a value for ${place}, found {count} values").into())
}
