//! Data: the keys of a Redis in memory, and the commands on them that the layer uses.

use std::collections::{BTreeMap, BTreeSet};

use super::protocol::Reply;

type Bytes = Vec<u8>;

/// All keys. A clone is what a Redis that crashes has on its disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Data {
    keys: BTreeMap<Bytes, Key>,
    /// The time in milliseconds.
    pub(super) now: u64,
}

#[derive(Clone, Debug)]
struct Key {
    value: Value,
    expires: Option<u64>,
}

#[derive(Clone, Debug)]
enum Value {
    Hash(BTreeMap<Bytes, Bytes>),
    Set(BTreeSet<Bytes>),
    Sorted(BTreeMap<Bytes, f64>),
    Stream(Stream),
}

#[derive(Clone, Debug, Default)]
struct Stream {
    last: (u64, u64),
    entries: BTreeMap<(u64, u64), Vec<Bytes>>,
}

/// The error of a command, as a reply.
type Outcome = Result<Reply, String>;

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

macro_rules! typed {
    ($name:ident, $new:ident, $kind:ident, $of:ty) => {
        /// The value of a key for reading; `None` if there is no such key.
        fn $name(&self, key: &[u8]) -> Result<Option<&$of>, String> {
            match self.keys.get(key).map(|key| &key.value) {
                None => Ok(None),
                Some(Value::$kind(value)) => Ok(Some(value)),
                Some(_) => Err(WRONG_TYPE.to_owned()),
            }
        }

        /// The value of a key for writing, created if there is none.
        fn $new(&mut self, key: &[u8]) -> Result<&mut $of, String> {
            let found = self.keys.entry(key.to_vec()).or_insert_with(|| Key {
                value: Value::$kind(Default::default()),
                expires: None,
            });
            match &mut found.value {
                Value::$kind(value) => Ok(value),
                _ => Err(WRONG_TYPE.to_owned()),
            }
        }
    };
}

impl Data {
    typed!(hash, hash_mut, Hash, BTreeMap<Bytes, Bytes>);
    typed!(set, set_mut, Set, BTreeSet<Bytes>);
    typed!(sorted, sorted_mut, Sorted, BTreeMap<Bytes, f64>);
    typed!(stream, stream_mut, Stream, Stream);

    pub(super) fn flush(&mut self) {
        self.keys.clear();
    }

    /// Executes a command; `None` if it is unknown.
    pub(super) fn execute(&mut self, command: &[Bytes]) -> Option<Reply> {
        let now = self.now;
        let is_expired = |key: &Key| key.expires.is_some_and(|expires| expires <= now);
        if self.keys.values().any(is_expired) {
            self.keys.retain(|_, key| !is_expired(key));
        }
        let name = String::from_utf8_lossy(&command[0]).to_uppercase();
        let (key, rest) = match command {
            [_, key, rest @ ..] => (key, rest),
            _ => (&command[0], &[][..]),
        };
        let outcome = match name.as_str() {
            "TIME" => Ok(Reply::Array(vec![
                Reply::bulk((now / 1000).to_string()),
                Reply::bulk((now % 1000 * 1000).to_string()),
            ])),
            "DEL" | "UNLINK" => Ok(count(
                command[1..]
                    .iter()
                    .filter(|key| self.keys.remove(*key).is_some()),
            )),
            "EXISTS" | "EXPIRE" | "PEXPIRE" | "PTTL" => self.on_key(&name, key, rest),
            _ if name.starts_with('H') => self.on_hash(&name, key, rest)?,
            _ if name.starts_with('S') => self.on_set(&name, key, rest)?,
            _ if name.starts_with('Z') => self.on_sorted(&name, key, rest)?,
            _ if name.starts_with('X') => self.on_stream(&name, key, rest)?,
            _ => return None,
        };
        let is_empty = self.keys.get(key).is_some_and(|key| match &key.value {
            Value::Hash(value) => value.is_empty(),
            Value::Set(value) => value.is_empty(),
            Value::Sorted(value) => value.is_empty(),
            Value::Stream(_) => false,
        });
        if is_empty {
            self.keys.remove(key);
        }
        Some(outcome.unwrap_or_else(Reply::Error))
    }

    fn on_key(&mut self, name: &str, key: &[u8], rest: &[Bytes]) -> Outcome {
        Ok(Reply::Int(match (name, self.keys.get_mut(key)) {
            ("PTTL", None) => -2,
            (_, None) => 0,
            ("PTTL", Some(found)) => found.expires.map_or(-1, |at| (at - self.now).cast_signed()),
            ("EXISTS", Some(_)) => 1,
            (_, Some(found)) => {
                let unit = if name == "EXPIRE" { 1000 } else { 1 };
                found.expires = Some(self.now + unit * integer(&rest[0])?.unsigned_abs());
                1
            }
        }))
    }

    fn on_hash(&mut self, name: &str, key: &[u8], rest: &[Bytes]) -> Option<Outcome> {
        let none = BTreeMap::new();
        Some((|| {
            match name {
                "HSET" | "HSETNX" => {
                    let hash = self.hash_mut(key)?;
                    let mut added = 0;
                    for pair in rest.chunks(2) {
                        let is_new = !hash.contains_key(&pair[0]);
                        added += i64::from(is_new);
                        if is_new || name == "HSET" {
                            hash.insert(pair[0].clone(), pair[1].clone());
                        }
                    }
                    return Ok(Reply::Int(added));
                }
                "HDEL" => {
                    let hash = self.hash_mut(key)?;
                    return Ok(count(
                        rest.iter().filter(|field| hash.remove(*field).is_some()),
                    ));
                }
                "HINCRBY" => {
                    let hash = self.hash_mut(key)?;
                    let before = hash.get(&rest[0]).map_or(Ok(0), |value| integer(value))?;
                    let after = before + integer(&rest[1])?;
                    hash.insert(rest[0].clone(), after.to_string().into_bytes());
                    return Ok(Reply::Int(after));
                }
                _ => {}
            }
            let hash = self.hash(key)?.unwrap_or(&none);
            let text = |value: Option<&Bytes>| {
                value.map_or(Reply::Nil, |value| Reply::bulk(value.clone()))
            };
            Ok(match name {
                "HGET" => text(hash.get(&rest[0])),
                "HMGET" => Reply::Array(rest.iter().map(|field| text(hash.get(field))).collect()),
                "HEXISTS" => Reply::Int(hash.contains_key(&rest[0]).into()),
                "HLEN" => count(hash.iter()),
                "HVALS" => Reply::list(hash.values()),
                "HKEYS" => Reply::list(hash.keys()),
                "HGETALL" => Reply::list(hash.iter().flat_map(|(field, value)| [field, value])),
                _ => return Err(unknown(name)),
            })
        })())
    }

    fn on_set(&mut self, name: &str, key: &[u8], rest: &[Bytes]) -> Option<Outcome> {
        let none = BTreeSet::new();
        let read = |data: &Self, act: &dyn Fn(&BTreeSet<Bytes>) -> Reply| {
            Ok(act(data.set(key)?.unwrap_or(&none)))
        };
        Some(match name {
            "SADD" => self
                .set_mut(key)
                .map(|set| count(rest.iter().filter(|word| set.insert((*word).clone())))),
            "SREM" => self
                .set_mut(key)
                .map(|set| count(rest.iter().filter(|word| set.remove(*word)))),
            "SMEMBERS" => read(self, &|set| Reply::list(set.iter())),
            "SISMEMBER" => read(self, &|set| Reply::Int(set.contains(&rest[0]).into())),
            "SCARD" => read(self, &|set| count(set.iter())),
            _ => return None,
        })
    }

    fn on_sorted(&mut self, name: &str, key: &[u8], rest: &[Bytes]) -> Option<Outcome> {
        Some((|| {
            let none = BTreeMap::new();
            let sorted = self.sorted(key)?.unwrap_or(&none);
            let mut ordered: Vec<(f64, Bytes)> = sorted
                .iter()
                .map(|(member, score)| (*score, member.clone()))
                .collect();
            ordered.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            let between = |from: &[u8], to: &[u8]| -> Result<Vec<Bytes>, String> {
                let (from, from_open) = score(from)?;
                let (to, to_open) = score(to)?;
                let is_in = |at: f64| {
                    (at > from || (at == from && !from_open)) && (at < to || (at == to && !to_open))
                };
                let found = ordered.iter().filter(|(at, _)| is_in(*at));
                Ok(found.map(|(_, member)| member.clone()).collect())
            };
            Ok(match name {
                "ZSCORE" => sorted
                    .get(&rest[0])
                    .map_or(Reply::Nil, |score| Reply::bulk(score.to_string())),
                "ZCARD" => count(sorted.iter()),
                "ZCOUNT" => count(between(&rest[0], &rest[1])?.iter()),
                "ZRANGE" => {
                    let (from, to) = (integer(&rest[0])?, integer(&rest[1])?);
                    let length = ordered.len().cast_signed() as i64;
                    let at = |index: i64| if index < 0 { length + index } else { index };
                    let wanted = at(from).max(0)..=at(to);
                    let found = (0..length).zip(&ordered);
                    let found = found.filter(|(index, _)| wanted.contains(index));
                    Reply::list(found.map(|(_, (_, member))| member))
                }
                "ZRANGEBYSCORE" => {
                    let mut found = between(&rest[0], &rest[1])?;
                    if let Some(count) = rest.get(4) {
                        found.truncate(size(count)?);
                    }
                    Reply::list(found.iter())
                }
                "ZREMRANGEBYSCORE" => {
                    let gone = between(&rest[0], &rest[1])?;
                    let sorted = self.sorted_mut(key)?;
                    count(
                        gone.iter()
                            .filter(|member| sorted.remove(*member).is_some()),
                    )
                }
                "ZADD" => {
                    let is_option = |word: &&Bytes| {
                        ["NX", "XX", "CH"]
                            .iter()
                            .any(|option| word.as_slice() == option.as_bytes())
                    };
                    let options = rest.iter().take_while(is_option).count();
                    let has = |option: &[u8]| rest[..options].iter().any(|word| word == option);
                    let sorted = self.sorted_mut(key)?;
                    let mut added = 0;
                    for pair in rest[options..].chunks(2) {
                        let (at, _) = score(&pair[0])?;
                        let is_new = !sorted.contains_key(&pair[1]);
                        if (is_new && has(b"XX")) || (!is_new && has(b"NX")) {
                            continue;
                        }
                        added += i64::from(is_new);
                        sorted.insert(pair[1].clone(), at);
                    }
                    Reply::Int(added)
                }
                "ZREM" => {
                    let sorted = self.sorted_mut(key)?;
                    count(rest.iter().filter(|word| sorted.remove(*word).is_some()))
                }
                "ZPOPMIN" => {
                    ordered.truncate(rest.first().map_or(Ok(1), |count| size(count))?);
                    let sorted = self.sorted_mut(key)?;
                    let mut popped = Vec::new();
                    for (score, member) in ordered {
                        sorted.remove(&member);
                        popped.extend([Reply::Bulk(member), Reply::bulk(score.to_string())]);
                    }
                    Reply::Array(popped)
                }
                _ => return Err(unknown(name)),
            })
        })())
    }

    fn on_stream(&mut self, name: &str, key: &[u8], rest: &[Bytes]) -> Option<Outcome> {
        Some((|| {
            match name {
                "XADD" => {
                    let (max, rest) = match rest[0].as_slice() {
                        b"MAXLEN" => (size(&rest[1])?, &rest[2..]),
                        _ => (usize::MAX, rest),
                    };
                    let id = stream_id(&rest[0], 0)?;
                    let stream = self.stream_mut(key)?;
                    if id <= stream.last {
                        return Err("ERR The ID specified in XADD is equal or smaller than the target stream top item".to_owned());
                    }
                    stream.last = id;
                    stream.entries.insert(id, rest[1..].to_vec());
                    trim(stream, max);
                    return Ok(Reply::bulk(rest[0].clone()));
                }
                "XTRIM" => {
                    let max = size(&rest[1])?;
                    return Ok(Reply::Int(trim(self.stream_mut(key)?, max)));
                }
                _ => {}
            }
            let none = Stream::default();
            let stream = self.stream(key)?.unwrap_or(&none);
            let entry = |((one, two), fields): (&(u64, u64), &Vec<Bytes>)| {
                Reply::Array(vec![
                    Reply::bulk(format!("{one}-{two}")),
                    Reply::list(fields.iter()),
                ])
            };
            Ok(match name {
                "XLEN" => count(stream.entries.iter()),
                "XRANGE" | "XREVRANGE" => {
                    let (from, to) = match name {
                        "XRANGE" => (&rest[0], &rest[1]),
                        _ => (&rest[1], &rest[0]),
                    };
                    let (from, to) = (stream_id(from, 0)?, stream_id(to, u64::MAX)?);
                    let most = rest.get(3).map_or(Ok(usize::MAX), |count| size(count))?;
                    let mut found: Vec<_> = stream.entries.range(from..=to.max(from)).collect();
                    found.retain(|(id, _)| **id <= to);
                    if name == "XREVRANGE" {
                        found.reverse();
                    }
                    Reply::Array(found.into_iter().take(most).map(entry).collect())
                }
                _ => return Err(unknown(name)),
            })
        })())
    }
}

fn unknown(name: &str) -> String {
    panic!("the Redis in memory does not know {name} yet")
}

fn count<T>(of: impl Iterator<Item = T>) -> Reply {
    Reply::Int(of.count().try_into().unwrap_or(i64::MAX))
}

fn size(text: &[u8]) -> Result<usize, String> {
    integer(text).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

/// Returns how many entries it removed.
fn trim(stream: &mut Stream, max: usize) -> i64 {
    let mut gone = 0;
    while stream.entries.len() > max {
        stream.entries.pop_first();
        gone += 1;
    }
    gone
}

fn integer(text: &[u8]) -> Result<i64, String> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    // Lua may write an integer as a float.
    let number = text.parse::<i64>().ok();
    let number = number.or_else(|| text.parse::<f64>().ok().map(|number| number as i64));
    number.ok_or_else(|| "ERR value is not an integer or out of range".to_owned())
}

fn score(text: &[u8]) -> Result<(f64, bool), String> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let (text, is_open) = text
        .strip_prefix('(')
        .map_or((text, false), |text| (text, true));
    match text {
        "-inf" => Ok((f64::NEG_INFINITY, is_open)),
        "+inf" => Ok((f64::INFINITY, is_open)),
        _ => text
            .parse()
            .map(|score| (score, is_open))
            .map_err(|_| "ERR value is not a valid float".to_owned()),
    }
}

fn stream_id(text: &[u8], missing: u64) -> Result<(u64, u64), String> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    match text {
        "-" => return Ok((0, 0)),
        "+" => return Ok((u64::MAX, u64::MAX)),
        _ => {}
    }
    let (one, two) = text.split_once('-').unwrap_or((text, ""));
    let invalid = || "ERR Invalid stream ID specified as stream command argument".to_owned();
    let two = if two.is_empty() {
        Ok(missing)
    } else {
        two.parse()
    };
    Ok((
        one.parse().map_err(|_| invalid())?,
        two.map_err(|_| invalid())?,
    ))
}
