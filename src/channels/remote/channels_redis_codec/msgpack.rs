//! Msgpack: the items of the format, written in their shortest form and read one at a time.
//!
//! A map or an array is a head with its length; its items follow.

use super::Unreadable;

/// An item that was read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Item<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// The head of so many items.
    Array(u32),
    /// The head of so many pairs of items.
    Map(u32),
}

impl<'a> Item<'a> {
    pub(super) fn has_items(&self) -> bool {
        matches!(self, Self::Array(_) | Self::Map(_))
    }

    /// Takes the next item.
    pub(super) fn read(input: &mut &'a [u8]) -> Result<Self, Unreadable> {
        let [head] = take(input)?;
        Ok(match head {
            0x00..=0x7f => Self::Unsigned(head.into()),
            0x80..=0x8f => Self::Map((head & 0x0f).into()),
            0x90..=0x9f => Self::Array((head & 0x0f).into()),
            0xa0..=0xbf => text(bytes(input, (head & 0x1f).into())?)?,
            0xc0 => Self::Nil,
            0xc1 => return Err(Unreadable::Unused),
            0xc2 => Self::Bool(false),
            0xc3 => Self::Bool(true),
            0xc4 => long_bytes::<1>(input).map(Self::Bytes)?,
            0xc5 => long_bytes::<2>(input).map(Self::Bytes)?,
            0xc6 => long_bytes::<4>(input).map(Self::Bytes)?,
            0xca => Self::Float(f32::from_be_bytes(take(input)?).into()),
            0xcb => Self::Float(f64::from_be_bytes(take(input)?)),
            0xcc => Self::Unsigned(u8::from_be_bytes(take(input)?).into()),
            0xcd => Self::Unsigned(u16::from_be_bytes(take(input)?).into()),
            0xce => Self::Unsigned(u32::from_be_bytes(take(input)?).into()),
            0xcf => Self::Unsigned(u64::from_be_bytes(take(input)?)),
            0xd0 => signed(i8::from_be_bytes(take(input)?).into()),
            0xd1 => signed(i16::from_be_bytes(take(input)?).into()),
            0xd2 => signed(i32::from_be_bytes(take(input)?).into()),
            0xd3 => signed(i64::from_be_bytes(take(input)?)),
            0xd9 => text(long_bytes::<1>(input)?)?,
            0xda => text(long_bytes::<2>(input)?)?,
            0xdb => text(long_bytes::<4>(input)?)?,
            0xdc => Self::Array(u16::from_be_bytes(take(input)?).into()),
            0xdd => Self::Array(u32::from_be_bytes(take(input)?)),
            0xde => Self::Map(u16::from_be_bytes(take(input)?).into()),
            0xdf => Self::Map(u32::from_be_bytes(take(input)?)),
            0xc7..=0xc9 | 0xd4..=0xd8 => return Err(Unreadable::Extension),
            0xe0..=0xff => Self::Negative(i8::from_be_bytes([head]).into()),
        })
    }
}

fn signed<'a>(number: i64) -> Item<'a> {
    u64::try_from(number).map_or(Item::Negative(number), Item::Unsigned)
}

fn text(bytes: &[u8]) -> Result<Item<'_>, Unreadable> {
    let text = std::str::from_utf8(bytes);
    text.map(Item::Text).map_err(|_| Unreadable::NotUtf8)
}

/// Takes bytes behind their length, which takes `N` bytes.
fn long_bytes<'a, const N: usize>(input: &mut &'a [u8]) -> Result<&'a [u8], Unreadable> {
    let len: [u8; N] = take(input)?;
    let len = len.iter().fold(0, |len, byte| len << 8 | u32::from(*byte));
    bytes(input, len)
}

fn take<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    let (taken, rest) = input.split_first_chunk().ok_or(Unreadable::Short)?;
    *input = rest;
    Ok(*taken)
}

fn bytes<'a>(input: &mut &'a [u8], len: u32) -> Result<&'a [u8], Unreadable> {
    let len = usize::try_from(len).map_err(|_| Unreadable::Short)?;
    let (taken, rest) = input.split_at_checked(len).ok_or(Unreadable::Short)?;
    *input = rest;
    Ok(taken)
}

pub(super) fn write_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

pub(super) fn write_bool(value: bool, out: &mut Vec<u8>) {
    out.push(if value { 0xc3 } else { 0xc2 });
}

pub(super) fn write_unsigned(number: u64, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    match number {
        0..=0x7f => out.push(bytes[7]),
        0x80..=0xff => out.extend([0xcc, bytes[7]]),
        0x100..=0xffff => with_head(0xcd, &bytes[6..], out),
        0x1_0000..=0xffff_ffff => with_head(0xce, &bytes[4..], out),
        _ => with_head(0xcf, &bytes, out),
    }
}

pub(super) fn write_signed(number: i64, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    match number {
        0.. => write_unsigned(number.unsigned_abs(), out),
        -0x20..=-1 => out.push(bytes[7]),
        -0x80..=-0x21 => out.extend([0xd0, bytes[7]]),
        -0x8000..=-0x81 => with_head(0xd1, &bytes[6..], out),
        -0x8000_0000..=-0x8001 => with_head(0xd2, &bytes[4..], out),
        _ => with_head(0xd3, &bytes, out),
    }
}

pub(super) fn write_float(number: f64, out: &mut Vec<u8>) {
    with_head(0xcb, &number.to_be_bytes(), out);
}

pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    match text.len() {
        len @ 0..=31 => out.push(0xa0 | len as u8),
        len @ 32..=255 => out.extend([0xd9, len as u8]),
        len => write_len(len, [0xda, 0xdb], out),
    }
    out.extend(text.as_bytes());
}

pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    match bytes.len() {
        len @ 0..=255 => out.extend([0xc4, len as u8]),
        len => write_len(len, [0xc5, 0xc6], out),
    }
    out.extend(bytes);
}

/// Writes the head of an array; its items follow.
pub(super) fn write_array(len: usize, out: &mut Vec<u8>) {
    match len {
        0..=15 => out.push(0x90 | len as u8),
        len => write_len(len, [0xdc, 0xdd], out),
    }
}

/// Writes the head of a map; its pairs follow.
pub(super) fn write_map(len: usize, out: &mut Vec<u8>) {
    match len {
        0..=15 => out.push(0x80 | len as u8),
        len => write_len(len, [0xde, 0xdf], out),
    }
}

/// Writes a head and a length in two or in four bytes. No event is longer than that.
fn write_len(len: usize, [short, long]: [u8; 2], out: &mut Vec<u8>) {
    match u16::try_from(len) {
        Ok(len) => with_head(short, &len.to_be_bytes(), out),
        Err(_) => {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            with_head(long, &len.to_be_bytes(), out);
        }
    }
}

fn with_head(head: u8, rest: &[u8], out: &mut Vec<u8>) {
    out.push(head);
    out.extend(rest);
}
