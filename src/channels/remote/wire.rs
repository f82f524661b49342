//! Wire: Oneport's own message format between processes.
//!
//! All numbers are big-endian. A message begins with its version (1) and its kind:
//!
//! - event: `flags u8, node u64, seq u64, epoch u64, offset u64`, then `except u64`, `count u64` and
//!   a sequence number if their flags are set, then the body. An offset of 0 means that the event is
//!   in no shared history.
//! - channel: the length of a channel's name `u8`, the name, the body.
//! - question: `caller u64, id u64`, JSON. answer: `id u64`, JSON.
//! - counted: `id u64, queued u32, dropped u32`.
//! - registered: `node u64`, a process that has registered its members again.
//! - newest: `node u64`, and the sequence number of that process's newest event in a group.
//! - span: the sender's span (`trace 16 bytes, span 8 bytes`) of the event that comes next with these
//!   numbers: `node u64, seq u64, sequence u32, number u64`, and the name of its group. It has a
//!   channel of its own, to which a process subscribes that reads it.
//!
//! A sequence number: `sequence u32, number u64, age u32`, the age of the sequence in milliseconds.
//!
//! A body begins with its kind: a text frame, a binary frame, or an event's JSON behind its type
//! (`length u8, type`).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::channels::event::Shown;
use crate::channels::event_id::EventId;
use crate::channels::sender_sequences::SequenceNumber;
use crate::channels::{Event, Position};

const VERSION: u8 = 1;

const KIND_EVENT: u8 = 1;
const KIND_CHANNEL: u8 = 2;
const KIND_REQUEST: u8 = 3;
const KIND_REPLY: u8 = 4;
const KIND_COUNTED: u8 = 5;
const KIND_REGISTERED: u8 = 6;
const KIND_NEWEST: u8 = 7;
const KIND_SPAN: u8 = 8;

const BODY_TEXT: u8 = 1;
const BODY_BYTES: u8 = 2;
const BODY_JSON: u8 = 3;

/// Set if the members of the sender's process already have it.
const FLAG_DELIVERED_BY_SENDER: u8 = 1;
const FLAG_EXCEPT: u8 = 2;
const FLAG_COUNT: u8 = 4;
const FLAG_NUMBER: u8 = 8;
const FLAGS: u8 = FLAG_DELIVERED_BY_SENDER | FLAG_EXCEPT | FLAG_COUNT | FLAG_NUMBER;

/// The head of an event without its position, which Redis adds after it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Head {
    pub(crate) id: EventId,
    /// True if the members of the sender's process already have it.
    pub(crate) is_delivered_by_sender: bool,
    /// The member of the sender's process that does not receive it.
    pub(crate) except: Option<u64>,
    /// The number of the call that counts its deliveries.
    pub(crate) count: Option<u64>,
    /// Its number in the group, if it is sent at most once.
    pub(crate) number: Option<SequenceNumber>,
}

/// The numbers by which an event's span finds it: those of its head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EventNumbers {
    pub(crate) id: EventId,
    pub(crate) sequence: u32,
    pub(crate) number: u64,
}

impl From<&Head> for EventNumbers {
    fn from(head: &Head) -> Self {
        Self {
            id: head.id,
            sequence: head.number.map_or(0, |number| number.sequence),
            number: head.number.map_or(0, |number| number.number),
        }
    }
}

/// A message that was read.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Event {
        head: Head,
        position: Position,
        event: Event,
    },
    Channel {
        name: &'a str,
        event: Event,
    },
    Request {
        caller: u64,
        id: u64,
        json: &'a [u8],
    },
    Reply {
        id: u64,
        json: &'a [u8],
    },
    Counted {
        id: u64,
        queued: usize,
        dropped: usize,
    },
    Registered {
        node: u64,
    },
    Newest {
        node: u64,
        number: SequenceNumber,
    },
    Span {
        numbers: EventNumbers,
        group: &'a str,
        span: [u8; 24],
    },
}

/// Returns the part of an event's message before its position.
pub(crate) fn head(head: &Head) -> Vec<u8> {
    let mut out = Vec::with_capacity(19);
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    out.extend([VERSION, KIND_EVENT]);
    out.push(
        flag(head.is_delivered_by_sender, FLAG_DELIVERED_BY_SENDER)
            | flag(head.except.is_some(), FLAG_EXCEPT)
            | flag(head.count.is_some(), FLAG_COUNT)
            | flag(head.number.is_some(), FLAG_NUMBER),
    );
    out.extend(head.id.node.to_be_bytes());
    out.extend(head.id.seq.to_be_bytes());
    out
}

/// Returns the part of an event's message after its position.
pub(crate) fn tail(head: &Head, event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.size() + event.event_type().len() + 34);
    out.extend(head.except.iter().flat_map(|number| number.to_be_bytes()));
    out.extend(head.count.iter().flat_map(|number| number.to_be_bytes()));
    if let Some(number) = &head.number {
        sequence_number(number, &mut out);
    }
    body(event, &mut out);
    out
}

/// Returns the whole message of an event that is not in a shared history.
pub(crate) fn event(of: &Head, event: &Event) -> Vec<u8> {
    let mut out = head(of);
    out.extend([0; 16]);
    out.extend(tail(of, event));
    out
}

pub(crate) fn channel(name: &str, event: &Event) -> Vec<u8> {
    let mut out = vec![
        VERSION,
        KIND_CHANNEL,
        u8::try_from(name.len()).unwrap_or(u8::MAX),
    ];
    out.extend(name.as_bytes());
    body(event, &mut out);
    out
}

pub(crate) fn request(caller: u64, id: u64, json: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSION, KIND_REQUEST];
    out.extend(caller.to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend(json);
    out
}

pub(crate) fn reply(id: u64, json: &[u8]) -> Vec<u8> {
    let mut out = vec![VERSION, KIND_REPLY];
    out.extend(id.to_be_bytes());
    out.extend(json);
    out
}

pub(crate) fn counted(id: u64, queued: usize, dropped: usize) -> Vec<u8> {
    let mut out = vec![VERSION, KIND_COUNTED];
    out.extend(id.to_be_bytes());
    for count in [queued, dropped] {
        out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
    }
    out
}

pub(crate) fn registered(node: u64) -> Vec<u8> {
    let mut out = vec![VERSION, KIND_REGISTERED];
    out.extend(node.to_be_bytes());
    out
}

pub(crate) fn newest(node: u64, number: &SequenceNumber) -> Vec<u8> {
    let mut out = vec![VERSION, KIND_NEWEST];
    out.extend(node.to_be_bytes());
    sequence_number(number, &mut out);
    out
}

pub(crate) fn span(of: &EventNumbers, group: &str, span: &[u8; 24]) -> Vec<u8> {
    let mut out = vec![VERSION, KIND_SPAN];
    out.extend(span);
    out.extend(of.id.node.to_be_bytes());
    out.extend(of.id.seq.to_be_bytes());
    out.extend(of.sequence.to_be_bytes());
    out.extend(of.number.to_be_bytes());
    out.extend(group.as_bytes());
    out
}

fn sequence_number(number: &SequenceNumber, out: &mut Vec<u8>) {
    let age = number.began.elapsed().as_millis();
    out.extend(number.sequence.to_be_bytes());
    out.extend(number.number.to_be_bytes());
    out.extend(u32::try_from(age).unwrap_or(u32::MAX).to_be_bytes());
}

fn body(event: &Event, out: &mut Vec<u8>) {
    match event.shown() {
        Shown::Bytes(bytes) => {
            out.push(BODY_BYTES);
            out.extend(bytes);
        }
        Shown::Text(text) if !event.is_json() => {
            out.push(BODY_TEXT);
            out.extend(text.as_bytes());
        }
        Shown::Text(text) => {
            let event_type = event.event_type().as_bytes();
            match u8::try_from(event_type.len()) {
                Ok(len) => {
                    out.extend([BODY_JSON, len]);
                    out.extend(event_type);
                }
                Err(_) => out.extend([BODY_JSON, 0]), // the reader takes it from the JSON
            }
            out.extend(text.as_bytes());
        }
    }
}

/// Reads a message; `None` if it is malformed.
pub(crate) fn read(bytes: &[u8]) -> Option<Message<'_>> {
    let (&[VERSION, kind], rest) = bytes.split_first_chunk::<2>()? else {
        return None;
    };
    match kind {
        KIND_EVENT => {
            let (flags, mut rest) = rest.split_first()?;
            let id = event_id(&mut rest)?;
            let epoch = number(&mut rest)?;
            let offset = number(&mut rest)?;
            let head = read_head(*flags, id, &mut rest)?;
            Some(Message::Event {
                head,
                position: Position { epoch, offset },
                event: read_body(rest)?,
            })
        }
        KIND_CHANNEL => {
            let (len, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(*len))?;
            Some(Message::Channel {
                name: std::str::from_utf8(name).ok()?,
                event: read_body(rest)?,
            })
        }
        KIND_REQUEST => {
            let mut rest = rest;
            Some(Message::Request {
                caller: number(&mut rest)?,
                id: number(&mut rest)?,
                json: rest,
            })
        }
        KIND_REPLY => {
            let mut rest = rest;
            Some(Message::Reply {
                id: number(&mut rest)?,
                json: rest,
            })
        }
        KIND_REGISTERED => {
            let mut rest = rest;
            let node = number(&mut rest)?;
            Some(Message::Registered { node })
        }
        KIND_NEWEST => {
            let mut rest = rest;
            Some(Message::Newest {
                node: number(&mut rest)?,
                number: read_sequence_number(&mut rest)?,
            })
        }
        KIND_SPAN => {
            let (span, mut rest) = rest.split_first_chunk()?;
            Some(Message::Span {
                span: *span,
                numbers: EventNumbers {
                    id: event_id(&mut rest)?,
                    sequence: number32(&mut rest)?,
                    number: number(&mut rest)?,
                },
                group: std::str::from_utf8(rest).ok()?,
            })
        }
        KIND_COUNTED => {
            let mut rest = rest;
            let id = number(&mut rest)?;
            let both = number(&mut rest)?;
            let (queued, dropped) = (both >> 32, both & u64::from(u32::MAX));
            Some(Message::Counted {
                id,
                queued: usize::try_from(queued).ok()?,
                dropped: usize::try_from(dropped).ok()?,
            })
        }
        _ => None,
    }
}

/// Reads an event as a shared history stores it: head and tail apart.
pub(crate) fn read_stored(head: &[u8], tail: &[u8]) -> Option<(Head, Event)> {
    let (&[VERSION, KIND_EVENT, flags], mut rest) = head.split_first_chunk::<3>()? else {
        return None;
    };
    let id = event_id(&mut rest)?;
    let mut tail = tail;
    let head = read_head(flags, id, &mut tail)?;
    Some((head, read_body(tail)?))
}

/// Reads what the flags announce. An unknown flag announces bytes that would be taken for the body.
fn read_head(flags: u8, id: EventId, rest: &mut &[u8]) -> Option<Head> {
    if flags & !FLAGS != 0 {
        return None;
    }
    Some(Head {
        id,
        is_delivered_by_sender: flags & FLAG_DELIVERED_BY_SENDER != 0,
        except: match flags & FLAG_EXCEPT {
            0 => None,
            _ => Some(number(rest)?),
        },
        count: match flags & FLAG_COUNT {
            0 => None,
            _ => Some(number(rest)?),
        },
        number: match flags & FLAG_NUMBER {
            0 => None,
            _ => Some(read_sequence_number(rest)?),
        },
    })
}

fn read_sequence_number(bytes: &mut &[u8]) -> Option<SequenceNumber> {
    let sequence = number32(bytes)?;
    let number = number(bytes)?;
    let age = Duration::from_millis(number32(bytes)?.into());
    let now = Instant::now();
    Some(SequenceNumber {
        sequence,
        number,
        began: now.checked_sub(age).unwrap_or(now),
    })
}

fn read_body(bytes: &[u8]) -> Option<Event> {
    let (kind, rest) = bytes.split_first()?;
    match *kind {
        BODY_BYTES => Some(Event::bytes(Bytes::copy_from_slice(rest))),
        BODY_TEXT => Some(Event::text(std::str::from_utf8(rest).ok()?.to_owned())),
        BODY_JSON => {
            let (len, rest) = rest.split_first()?;
            let (event_type, json) = rest.split_at_checked(usize::from(*len))?;
            let json = std::str::from_utf8(json).ok()?;
            if event_type.is_empty() {
                return Event::from_json(json).ok();
            }
            let event_type = std::str::from_utf8(event_type).ok()?;
            let is_object = json.starts_with('{') && json.ends_with('}');
            is_object.then(|| Event::checked(event_type, json.to_owned()))
        }
        _ => None,
    }
}

fn event_id(bytes: &mut &[u8]) -> Option<EventId> {
    Some(EventId {
        node: number(bytes)?,
        seq: number(bytes)?,
    })
}

fn number32(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> [Event; 4] {
        let long = format!("x.{}", "y".repeat(300));
        [
            Event::text("hä"),
            Event::bytes(vec![0, 255]),
            Event::new("chat.message", &serde_json::json!({"message": "hi"})).unwrap(),
            Event::new(&long, &serde_json::json!({})).unwrap(),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for event in events() {
            for (except, count) in [(None, None), (Some(7), None), (Some(1), Some(u64::MAX))] {
                let of = Head {
                    id: EventId { node: 3, seq: 9 },
                    is_delivered_by_sender: except.is_some(),
                    except,
                    count,
                    number: None,
                };
                let kept = read_stored(&head(&of), &tail(&of, &event)).unwrap();
                assert_eq!((kept.0, kept.1.shown()), (of, event.shown()));
                let mut placed = head(&of);
                placed.extend(5_u64.to_be_bytes());
                placed.extend(6_u64.to_be_bytes());
                placed.extend(tail(&of, &event));
                let Some(Message::Event {
                    head,
                    position,
                    event: found,
                }) = read(&placed)
                else {
                    panic!("expected an event");
                };
                assert_eq!((head, found.shown()), (of, event.shown()));
                assert_eq!(found.event_type(), event.event_type());
                assert_eq!(
                    position,
                    Position {
                        epoch: 5,
                        offset: 6
                    }
                );
            }
            let sent = channel("specific.a!b", &event);
            let Some(Message::Channel { name, event: found }) = read(&sent) else {
                panic!("expected an event for a channel");
            };
            assert_eq!((name, found.shown()), ("specific.a!b", event.shown()));
        }
    }

    #[test]
    fn a_sequence_number_keeps_its_age() {
        let began = Instant::now() - Duration::from_secs(70);
        let number = SequenceNumber {
            sequence: 7,
            number: u64::MAX,
            began,
        };
        let check = |found: SequenceNumber| {
            assert_eq!((found.sequence, found.number), (7, u64::MAX));
            let difference = found.began.saturating_duration_since(began);
            assert!(difference < Duration::from_secs(10), "{difference:?}");
        };
        let of = Head {
            except: Some(1),
            count: Some(2),
            number: Some(number),
            ..Head::default()
        };
        let sent = event(&of, &Event::text("a"));
        let Some(Message::Event { head, event, .. }) = read(&sent) else {
            panic!("expected an event");
        };
        assert_eq!((head.except, head.count), (Some(1), Some(2)));
        assert_eq!(event.shown(), Event::text("a").shown());
        check(head.number.unwrap());
        let sent = newest(3, &number);
        let Some(Message::Newest { node, number }) = read(&sent) else {
            panic!("expected the newest number");
        };
        assert_eq!(node, 3);
        check(number);
    }

    #[test]
    fn a_span_is_read_with_the_numbers_of_its_event() {
        let numbers = EventNumbers {
            id: EventId { node: 3, seq: 9 },
            sequence: 4,
            number: u64::MAX,
        };
        let sent = span(&numbers, "room_\u{e4}", &[7; 24]);
        let Some(Message::Span {
            numbers: found,
            group,
            span,
        }) = read(&sent)
        else {
            panic!("expected a span");
        };
        assert_eq!((found, group, span), (numbers, "room_\u{e4}", [7; 24]));
        assert!(read(&sent[..50]).is_none());
    }

    #[test]
    fn an_unknown_flag_is_refused() {
        let of = Head::default();
        for flag in [16, 32, 64, 128] {
            let mut sent = event(&of, &Event::text("a"));
            sent[2] |= flag;
            assert!(read(&sent).is_none(), "{flag}");
            let mut kept = head(&of);
            kept[2] |= flag;
            assert!(read_stored(&kept, &tail(&of, &Event::text("a"))).is_none());
        }
    }

    #[test]
    fn counts_are_read() {
        let counts = counted(4, 5, 6);
        let Some(Message::Counted {
            id,
            queued,
            dropped,
        }) = read(&counts)
        else {
            panic!("expected counts");
        };
        assert_eq!((id, queued, dropped), (4, 5, 6));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_no_more(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&bytes);
            let mut ours = vec![VERSION, bytes.len() as u8 % 10];
            ours.extend(&bytes);
            let _ = read(&ours);
        }

        #[test]
        fn every_shorter_message_is_refused_or_another(at in 0..45_usize) {
            let of = Head { count: Some(1), ..Head::default() };
            let whole = event(&of, &Event::text("a"));
            prop_assert!(read(&whole[..at.min(whole.len() - 2)]).is_none());
        }
    }
}
