//! Pickle: decodes plain data that Python pickled, and nothing else.
//!
//! A pickle is a program. This decoder implements only the instructions that build dictionaries,
//! lists, tuples, strings, numbers, booleans and `None`. It refuses all others, such as those that
//! import and call.

use std::rc::Rc;

use serde_json::{Map, Number, Value};
use thiserror::Error;

/// The maximum number of values in one pickle. A value counts each time it is used.
const VALUES_MAX: usize = 100_000;

/// The maximum bytes of all strings. A string counts each time it is used: a memoised string is
/// repeated by a two-byte instruction.
const TEXT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The maximum nesting depth of values.
const DEPTH_MAX: usize = 64;

/// Why a pickle is refused.
#[derive(Debug, Eq, Error, PartialEq)]
pub(crate) enum PickleError {
    /// An instruction beyond plain data.
    #[error("expected plain data, found the instruction 0x{opcode:02x} at byte {at}")]
    Instruction {
        /// The instruction.
        opcode: u8,
        /// Its offset.
        at: usize,
    },
    /// The pickle is truncated, or its instructions are inconsistent.
    #[error("expected a complete pickle of a dictionary, found an error at byte {at}")]
    Broken {
        /// The offset of the error.
        at: usize,
    },
    /// The header is not that of protocol 2 to 5.
    #[error("expected a pickle of protocol 2 to 5, found another header")]
    Protocol,
    /// The pickle exceeds a limit on values, text or depth.
    #[error(
        "expected at most {VALUES_MAX} values and {TEXT_BYTES_MAX} bytes of text, {DEPTH_MAX} deep, found more"
    )]
    TooMuch,
}

/// The instruction that ends a pickle.
const STOP: u8 = b'.';

/// An item on the program's stack. Containers are filled after they were memoised, so they live in
/// arenas and items refer to them by index.
#[derive(Clone, Debug)]
enum Item {
    Plain(Value),
    Text(Rc<str>),
    List(usize),
    Dictionary(usize),
    Mark,
}

/// The state of a running program.
struct Machine<'p> {
    bytes: &'p [u8],
    at: usize,
    stack: Vec<Item>,
    memo: std::collections::HashMap<u32, Item>,
    lists: Vec<Vec<Item>>,
    dictionaries: Vec<Vec<(Rc<str>, Item)>>,
}

/// The remaining limits while the result is built.
struct Left {
    values: usize,
    text_bytes: usize,
}

impl Left {
    fn text(&mut self, text: &str) -> Result<String, PickleError> {
        let left = self.text_bytes.checked_sub(text.len());
        self.text_bytes = left.ok_or(PickleError::TooMuch)?;
        Ok(text.to_owned())
    }
}

/// Decodes a pickled dictionary with string keys, protocol 2 to 5.
pub(crate) fn read(bytes: &[u8]) -> Result<Map<String, Value>, PickleError> {
    let [0x80, 2..=5, ..] = bytes else {
        return Err(PickleError::Protocol);
    };
    let mut machine = Machine {
        bytes,
        at: 2,
        stack: Vec::new(),
        memo: std::collections::HashMap::new(),
        lists: Vec::new(),
        dictionaries: Vec::new(),
    };
    let result = machine.run()?;
    let mut left = Left {
        values: VALUES_MAX,
        text_bytes: TEXT_BYTES_MAX,
    };
    match machine.value(&result, 0, &mut left)? {
        Value::Object(map) => Ok(map),
        _ => Err(machine.broken()),
    }
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Item, PickleError> {
        loop {
            let at = self.at;
            let [opcode] = self.take::<1>()?;
            if opcode == STOP {
                return self.pop();
            }
            self.step(opcode, at)?;
        }
    }

    /// Executes one instruction. The names are those of Python's `pickletools`.
    fn step(&mut self, opcode: u8, at: usize) -> Result<(), PickleError> {
        match opcode {
            0x95 => self.take::<8>().map(drop),                   // FRAME
            b'N' => self.push(Value::Null),                       // NONE
            0x88 => self.push(true),                              // NEWTRUE
            0x89 => self.push(false),                             // NEWFALSE
            b'K' => self.number(|[byte]: [u8; 1]| byte),          // BININT1
            b'M' => self.number(u16::from_le_bytes),              // BININT2
            b'J' => self.number(i32::from_le_bytes),              // BININT
            b'G' => self.number(f64::from_be_bytes), // BINFLOAT; NaN and infinities become null
            0x8a => self.long(),                     // LONG1
            0x8c => self.text(|[length]: [u8; 1]| length.into()), // SHORT_BINUNICODE
            b'X' => self.text(|bytes| u32::from_le_bytes(bytes).into()), // BINUNICODE
            0x8d => self.text(u64::from_le_bytes),   // BINUNICODE8
            b'(' => {
                self.stack.push(Item::Mark); // MARK
                Ok(())
            }
            b']' | b')' => self.list(0), // EMPTY_LIST, EMPTY_TUPLE
            0x85 => self.list(1),        // TUPLE1
            0x86 => self.list(2),        // TUPLE2
            0x87 => self.list(3),        // TUPLE3
            b't' => {
                let items = self.pop_to_mark()?; // TUPLE
                self.push_list(items)
            }
            b'}' => {
                self.dictionaries.push(Vec::new()); // EMPTY_DICT
                self.stack
                    .push(Item::Dictionary(self.dictionaries.len() - 1));
                Ok(())
            }
            b'a' => {
                let items = self.pop_many(1)?; // APPEND
                self.append(items)
            }
            b'e' => {
                let items = self.pop_to_mark()?; // APPENDS
                self.append(items)
            }
            b's' => {
                let items = self.pop_many(2)?; // SETITEM
                self.set(items)
            }
            b'u' => {
                let items = self.pop_to_mark()?; // SETITEMS
                self.set(items)
            }
            0x94 => {
                let place = u32::try_from(self.memo.len()).map_err(|_| PickleError::TooMuch)?;
                self.store(place) // MEMOIZE
            }
            b'q' => {
                let [place] = self.take()?; // BINPUT
                self.store(place.into())
            }
            b'r' => {
                let place = u32::from_le_bytes(self.take()?); // LONG_BINPUT
                self.store(place)
            }
            b'h' => {
                let [place] = self.take()?; // BINGET
                self.recall(place.into())
            }
            b'j' => {
                let place = u32::from_le_bytes(self.take()?); // LONG_BINGET
                self.recall(place)
            }
            opcode => Err(PickleError::Instruction { opcode, at }),
        }
    }

    fn broken(&self) -> PickleError {
        PickleError::Broken { at: self.at }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = *rest.first_chunk::<N>().ok_or_else(|| self.broken())?;
        self.at += N;
        Ok(taken)
    }

    fn slice(&mut self, length: u64) -> Result<&[u8], PickleError> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .filter(|end| *end <= self.bytes.len())
            .ok_or_else(|| self.broken())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    #[expect(clippy::unnecessary_wraps, reason = "as all instructions")]
    fn push(&mut self, value: impl Into<Value>) -> Result<(), PickleError> {
        self.stack.push(Item::Plain(value.into()));
        Ok(())
    }

    fn number<const N: usize, V: Into<Value>>(
        &mut self,
        read: impl Fn([u8; N]) -> V,
    ) -> Result<(), PickleError> {
        let bytes = self.take()?;
        self.push(read(bytes))
    }

    fn text<const N: usize>(&mut self, length: impl Fn([u8; N]) -> u64) -> Result<(), PickleError> {
        let length = length(self.take()?);
        // Python encodes a lone surrogate as if it were a character.
        let text = String::from_utf8_lossy(self.slice(length)?).into();
        self.stack.push(Item::Text(text));
        Ok(())
    }

    /// Pushes an integer of any length, in two's complement. Beyond 64 bits it loses digits.
    fn long(&mut self) -> Result<(), PickleError> {
        let [length] = self.take()?;
        let bytes = self.slice(length.into())?;
        let is_negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let value = if bytes.len() <= 8 {
            let mut whole = [if is_negative { 0xff } else { 0 }; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            Value::from(i64::from_le_bytes(whole))
        } else {
            Number::from_f64(nearest(bytes, is_negative)).map_or(Value::Null, Value::Number)
        };
        self.push(value)
    }

    /// Pushes a list of the top `count` values.
    fn list(&mut self, count: usize) -> Result<(), PickleError> {
        let items = self.pop_many(count)?;
        self.push_list(items)
    }

    #[expect(clippy::unnecessary_wraps, reason = "as all instructions")]
    fn push_list(&mut self, items: Vec<Item>) -> Result<(), PickleError> {
        self.lists.push(items);
        self.stack.push(Item::List(self.lists.len() - 1));
        Ok(())
    }

    fn pop(&mut self) -> Result<Item, PickleError> {
        match self.stack.pop() {
            Some(Item::Mark) | None => Err(self.broken()),
            Some(item) => Ok(item),
        }
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Item>, PickleError> {
        let mut items = (0..count)
            .map(|_| self.pop())
            .collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Item>, PickleError> {
        let mark = self
            .stack
            .iter()
            .rposition(|item| matches!(item, Item::Mark))
            .ok_or_else(|| self.broken())?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn append(&mut self, items: Vec<Item>) -> Result<(), PickleError> {
        let broken = self.broken();
        match self.stack.last() {
            Some(Item::List(place)) => {
                self.lists.get_mut(*place).ok_or(broken)?.extend(items);
                Ok(())
            }
            _ => Err(broken),
        }
    }

    fn set(&mut self, items: Vec<Item>) -> Result<(), PickleError> {
        let broken = self.broken();
        let Some(Item::Dictionary(place)) = self.stack.last() else {
            return Err(broken);
        };
        let dictionary = self
            .dictionaries
            .get_mut(*place)
            .ok_or(PickleError::TooMuch)?;
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            match (key, items.next()) {
                (Item::Text(key), Some(value)) => dictionary.push((key, value)),
                _ => return Err(broken),
            }
        }
        Ok(())
    }

    fn store(&mut self, place: u32) -> Result<(), PickleError> {
        match self.stack.last() {
            Some(Item::Mark) | None => Err(self.broken()),
            Some(item) => {
                self.memo.insert(place, item.clone());
                Ok(())
            }
        }
    }

    fn recall(&mut self, place: u32) -> Result<(), PickleError> {
        let item = self
            .memo
            .get(&place)
            .cloned()
            .ok_or_else(|| self.broken())?;
        self.stack.push(item);
        Ok(())
    }

    /// Converts an item to a value. An item that contains itself exceeds the depth limit.
    fn value(&self, item: &Item, depth: usize, left: &mut Left) -> Result<Value, PickleError> {
        left.values = left.values.checked_sub(1).ok_or(PickleError::TooMuch)?;
        if depth > DEPTH_MAX {
            return Err(PickleError::TooMuch);
        }
        Ok(match item {
            Item::Plain(value) => value.clone(),
            Item::Text(text) => Value::String(left.text(text)?),
            Item::List(place) => {
                let items = self.lists.get(*place).ok_or_else(|| self.broken())?;
                let values = items.iter().map(|item| self.value(item, depth + 1, left));
                Value::Array(values.collect::<Result<_, _>>()?)
            }
            Item::Dictionary(place) => {
                let entries = self.dictionaries.get(*place).ok_or_else(|| self.broken())?;
                let values = entries
                    .iter()
                    .map(|(key, item)| Ok((left.text(key)?, self.value(item, depth + 1, left)?)));
                Value::Object(values.collect::<Result<_, PickleError>>()?)
            }
            Item::Mark => return Err(self.broken()),
        })
    }
}

/// Returns the float nearest to an integer of more than 64 bits, rounded once like Python's
/// `float`.
fn nearest(bytes: &[u8], is_negative: bool) -> f64 {
    let mut carries = is_negative;
    let mut magnitude: Vec<u8> = bytes
        .iter()
        .map(|byte| {
            if !is_negative {
                return *byte;
            }
            let (byte, carried) = (!byte).overflowing_add(u8::from(carries));
            carries = carried;
            byte
        })
        .collect();
    let length = magnitude.iter().rposition(|byte| *byte != 0);
    magnitude.truncate(length.map_or(0, |last| last + 1));
    // The nine highest bytes hold more bits than a float. Any lower bit that is set decides a tie.
    let (below, highest) = magnitude.split_at(magnitude.len().saturating_sub(9));
    let top = highest
        .iter()
        .rev()
        .fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
    let sticky = u128::from(below.iter().any(|byte| *byte != 0));
    let scale = i32::try_from(below.len() * 8).unwrap_or(i32::MAX);
    let number = (top | sticky) as f64 * 2.0_f64.powi(scale);
    if is_negative { -number } else { number }
}

#[cfg(test)]
mod tests;
