//! To msgpack: an event's JSON as the pairs of a msgpack map, as Python's msgpack writes them.

use super::json_tokens::{Token, Tokens};
use super::{CHANNELS, EncodeError, EncodedEvent, NESTING_SENT_MAX, msgpack};
use crate::channels::json_object;

/// Writes an event. Two passes: the length of a map or an array comes before its items.
pub(super) fn encode(json: &str) -> Result<EncodedEvent, EncodeError> {
    let mut lengths = lengths(json)?.into_iter();
    let fields = lengths.next().unwrap_or_default();
    let mut content = Vec::with_capacity(json.len());
    let out = &mut content;
    for token in Tokens::new(json).skip(1) {
        match token {
            Token::OpenObject => msgpack::write_map(lengths.next().unwrap_or_default(), out),
            Token::OpenArray => msgpack::write_array(lengths.next().unwrap_or_default(), out),
            Token::CloseObject | Token::CloseArray => {}
            Token::Text(text) => {
                let text = json_object::text(text).ok_or(EncodeError::HalfSurrogate)?;
                msgpack::write_text(&text, out);
            }
            Token::Number(number) => write_number(number, out)?,
            Token::True => msgpack::write_bool(true, out),
            Token::False => msgpack::write_bool(false, out),
            Token::Null => msgpack::write_nil(out),
        }
    }
    Ok(EncodedEvent { fields, content })
}

/// Checks the nesting, and that no field has the name of the recipients. Returns the lengths of all
/// objects and arrays, in the order in which they begin.
pub(super) fn lengths(json: &str) -> Result<Vec<usize>, EncodeError> {
    let mut lengths: Vec<usize> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for token in Tokens::new(json) {
        match token {
            Token::CloseObject => {
                // Names and values were counted.
                if let Some(length) = open.pop().and_then(|at| lengths.get_mut(at)) {
                    *length /= 2;
                }
                continue;
            }
            Token::CloseArray => {
                open.pop();
                continue;
            }
            _ => {}
        }
        if let Some(at) = open.last() {
            let is_name = *at == 0 && lengths[0].is_multiple_of(2);
            if let Token::Text(name) = token
                && is_name
                && json_object::text(name).as_deref() == Some(CHANNELS)
            {
                return Err(EncodeError::Reserved);
            }
            lengths[*at] += 1;
        }
        if matches!(token, Token::OpenObject | Token::OpenArray) {
            if open.len() >= NESTING_SENT_MAX {
                return Err(EncodeError::Nesting);
            }
            open.push(lengths.len());
            lengths.push(0);
        }
    }
    Ok(lengths)
}

fn write_number(number: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if number.contains(['.', 'e', 'E']) {
        let found: f64 = number.parse().unwrap_or(f64::INFINITY);
        if found.is_infinite() {
            return Err(EncodeError::number(number));
        }
        msgpack::write_float(found, out);
    } else if let Ok(found) = number.parse() {
        msgpack::write_signed(found, out);
    } else if let Ok(found) = number.parse() {
        msgpack::write_unsigned(found, out);
    } else {
        return Err(EncodeError::number(number));
    }
    Ok(())
}
