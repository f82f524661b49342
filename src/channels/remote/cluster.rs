//! Cluster: the master of each slot in a Redis Cluster.

use std::io;
use std::sync::Arc;

use crc::{CRC_16_XMODEM, Crc};
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, Value};

/// The number of slots in a cluster.
const SLOTS: usize = 16384;

/// The master number of an unassigned slot.
const UNASSIGNED: u16 = u16::MAX;

/// The master of each slot, as its number among the masters.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Slots(Arc<[u16]>);

impl Slots {
    /// Returns the number of the master that has a key or a channel.
    pub(super) fn server_of(&self, key: &[u8]) -> Option<usize> {
        let server = self.0[slot_of(key)];
        (server != UNASSIGNED).then_some(usize::from(server))
    }

    /// Returns the same slots with the masters numbered as in `others`; fails if a master is not
    /// among them.
    pub(super) fn reordered(
        &self,
        own: &[(String, u16)],
        others: &[(String, u16)],
    ) -> RedisResult<Self> {
        let mut number_of = Vec::new();
        for address in own {
            let found = others.iter().position(|other| other == address);
            let (host, port) = address;
            let number = found
                .and_then(|number| u16::try_from(number).ok())
                .ok_or_else(|| error(format!("the cluster has another master, {host}:{port}")))?;
            number_of.push(number);
        }
        let number = |server: &u16| number_of.get(usize::from(*server)).copied();
        let slots = self
            .0
            .iter()
            .map(|server| number(server).unwrap_or(UNASSIGNED));
        Ok(Self(slots.collect()))
    }
}

/// Returns the slot of a key: the hash of the text in its first braces, unless that is empty.
/// (Redis Cluster, "Hash tags")
fn slot_of(key: &[u8]) -> usize {
    static CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);
    let at = |bytes: &[u8], wanted: u8| bytes.iter().position(|byte| *byte == wanted);
    let tag = at(key, b'{').and_then(|open| {
        let rest = &key[open + 1..];
        at(rest, b'}').map(|close| &rest[..close])
    });
    let counted = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    usize::from(CRC.checksum(counted)) % SLOTS
}

/// Returns the command that asks for the slots.
pub(super) fn slots_command() -> Cmd {
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

/// Reads a server's reply: the masters, and the slots of each.
pub(super) fn parse_slots(answer: Value, asked: &str) -> RedisResult<(Vec<(String, u16)>, Slots)> {
    let mut slots = vec![UNASSIGNED; SLOTS];
    let mut masters: Vec<(String, u16)> = Vec::new();
    let ranges: Vec<Vec<Value>> = FromRedisValue::from_redis_value(answer)?;
    for range in ranges {
        let Some((address, slots)) = parse_range(range, asked, &mut slots) else {
            return Err(error(
                "expected ranges of slots with their masters".to_owned(),
            ));
        };
        let found = masters.iter().position(|master| *master == address);
        let number = found.unwrap_or(masters.len());
        if found.is_none() {
            masters.push(address);
        }
        slots.fill(u16::try_from(number).unwrap_or(UNASSIGNED));
    }
    if masters.is_empty() {
        return Err(error("the cluster has no master that has slots".to_owned()));
    }
    Ok((masters, Slots(slots.into())))
}

/// Reads one range: its first and its last slot, then the master, then its replicas.
fn parse_range<'s>(
    range: Vec<Value>,
    asked: &str,
    slots: &'s mut [u16],
) -> Option<((String, u16), &'s mut [u16])> {
    let mut parts = range.into_iter();
    let mut number = || usize::from_redis_value(parts.next()?).ok();
    let (first, last) = (number()?, number()?);
    let Value::Array(master) = parts.next()? else {
        return None;
    };
    let mut master = master.into_iter();
    let host = Option::<String>::from_redis_value(master.next()?).ok()?;
    let port = u16::from_redis_value(master.next()?).ok()?;
    let host = match host.as_deref() {
        None | Some("" | "?") => asked.to_owned(), // the server does not know its own name
        Some(host) => host.to_owned(),
    };
    Some(((host, port), slots.get_mut(first..=last)?))
}

fn error(sentence: String) -> RedisError {
    RedisError::from(io::Error::other(sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(host: &str, port: i64) -> Value {
        let host = Value::BulkString(host.as_bytes().to_vec());
        Value::Array(vec![
            host,
            Value::Int(port),
            Value::BulkString(b"id".to_vec()),
        ])
    }

    fn range(first: i64, last: i64, master: Value) -> Value {
        Value::Array(vec![Value::Int(first), Value::Int(last), master])
    }

    #[test]
    fn keys_have_the_slots_that_redis_gives_them() {
        // As CLUSTER KEYSLOT of Redis 7.0 answers.
        for (key, slot) in [
            ("foo", 12182),
            ("123456789", 12739),
            ("oneport:history:{chat_lobby}", 14703),
            ("chat_lobby", 14703),
            ("{}x", 10595),
            ("a{b", 13340),
            ("", 0),
        ] {
            assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn masters_are_found_by_their_slots() {
        let answer = Value::Array(vec![
            range(0, 8000, master("a", 1)),
            range(8001, 12000, master("", 2)),
            range(12001, 16383, master("a", 1)),
        ]);
        let (masters, map) = parse_slots(answer, "asked").unwrap();
        assert_eq!(masters, [("a".to_owned(), 1), ("asked".to_owned(), 2)]);
        assert_eq!(map.server_of(b"foo"), Some(0));
        assert_eq!(map.server_of(b"{}x"), Some(1));
        let others = [("asked".to_owned(), 2), ("a".to_owned(), 1)];
        let same = map.reordered(&masters, &others).unwrap();
        assert_eq!(same.server_of(b"foo"), Some(1));
        assert!(map.reordered(&masters, &others[..1]).is_err());
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for answer in [
            Value::Array(Vec::new()),
            Value::Okay,
            Value::Array(vec![range(0, 16384, master("a", 1))]),
            Value::Array(vec![range(9, 3, master("a", 1))]),
            Value::Array(vec![range(0, 1, Value::Int(1))]),
        ] {
            let found = parse_slots(answer.clone(), "asked").map(|(masters, _)| masters);
            assert!(found.is_err(), "{answer:?}: {found:?}");
        }
    }
}
