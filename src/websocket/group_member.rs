//! Group member: a socket as a member of groups by frames.
//!
//! A batch of events is framed, and compressed, once for all members with the same [`Form`]. The
//! sender's task then writes these bytes to each member's stream; a member's own task is woken only
//! if its stream does not take all of them.

use super::deflate;
use super::extension::WINDOW_BITS_MIN;
use super::frame::{Opcode, encode};
use super::send_queue::QueuedFrame;
use super::settings::SlowClient;
use super::socket_handle::SocketHandle;
use crate::channels::event::Shown;
use crate::channels::{Batch, Delivery, Entry, Event, Form, Membership, Seen, Subscriber};
use crate::queued_bytes::QueuedBytes;

impl Subscriber for SocketHandle {
    fn deliver(&self, batch: &Batch, membership: &Membership) -> Delivery {
        let mut queue = self.lock_queue();
        if !queue.is_open() {
            return Delivery::Dropped;
        }
        // With context takeover: the batch enters the client's window, but not our compressor's.
        queue.reset_context();
        let form = self.form(membership);
        let render = |entry: &Entry, frames: &mut Vec<u8>| {
            self.encode_event(entry, membership.shows_positions, frames);
        };
        let mut written = 0;
        if queue.is_empty()
            && let Some(bytes) = batch.whole(membership, form, render)
        {
            match queue.try_write(self.stream(), bytes) {
                None if !queue.is_open() => return Delivery::Dropped,
                None => {
                    let messages = u32::try_from(batch.len()).unwrap_or(u32::MAX);
                    self.count_sent(&queue, messages);
                    return Delivery::Queued;
                }
                Some(count) => written = count,
            }
        }
        // The stream did not take the whole batch: frames not written yet are queued one by one, so
        // that `slow_client` can drop whole messages.
        let mut delivery = Delivery::Queued;
        for (entry, bytes) in batch.pieces(membership, form, render) {
            if written >= bytes.len() {
                written -= bytes.len();
                self.count_sent(&queue, 1);
                continue;
            }
            let start = std::mem::take(&mut written);
            let Some(more) = queue.try_write(self.stream(), &bytes[start..]) else {
                self.count_sent(&queue, 1);
                continue;
            };
            let rest = start + more;
            let frame = QueuedFrame {
                share: QueuedBytes::default(),
                bytes: bytes.slice(rest..),
                is_partly_written: rest > 0,
                conflate_key: self.conflate_key(&entry.event),
            };
            match self.enqueue(&mut queue, frame) {
                Delivery::Dropped => delivery = Delivery::Dropped,
                _ => self.count_sent(&queue, 1),
            }
        }
        delivery
    }

    fn joined(&self, from: &Seen, recovered: Option<bool>) {
        let offset = from.to_string();
        let greeting = serde_json::json!({
            "type": "oneport.joined", "offset": offset, "recovered": recovered,
        });
        self.send_message(&greeting.to_string().into());
    }
}

impl SocketHandle {
    /// Returns the form of a member's frames: plain or compressed with one of the windows, with
    /// positions or without. Members with the same form get the same bytes.
    fn form(&self, membership: &Membership) -> Form {
        let compressed = self
            .deflate()
            .map_or(0, |agreed| agreed.server_window_bits - WINDOW_BITS_MIN + 1);
        Form(
            compressed
                + if membership.shows_positions {
                    POSITIONED
                } else {
                    0
                },
        )
    }

    /// Appends the frame of an event, compressed without the context of other messages.
    fn encode_event(&self, entry: &Entry, shows_position: bool, out: &mut Vec<u8>) {
        let positioned;
        let (opcode, payload) = match entry.event.shown() {
            Shown::Text(_) if shows_position && entry.event.is_json() => {
                positioned = entry.event.json_with("offset", &entry.seen());
                (Opcode::Text, positioned.as_bytes())
            }
            Shown::Text(text) => (Opcode::Text, text.as_bytes()),
            Shown::Bytes(bytes) => (Opcode::Binary, bytes),
        };
        match self.deflate() {
            None => encode(opcode, payload, out),
            Some(agreed) => {
                let settings = &self.route().settings.deflate;
                deflate::encode_standalone(agreed, settings, opcode, payload, out);
            }
        }
    }

    fn conflate_key(&self, event: &Event) -> Option<Box<str>> {
        if self.route().settings.slow_client != SlowClient::Conflate {
            return None;
        }
        event
            .field("conflate_key")
            .and_then(|key| key.as_str().map(Box::from))
    }
}

/// Forms from this one on include each event's position.
const POSITIONED: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_with_an_offset_of_its_own_gets_no_second_one() {
        let position: Seen = "1f.42".parse().unwrap();
        for (json, expected) in [
            (
                r#"{"type":"a.b","n":1}"#,
                r#"{"type":"a.b","n":1,"offset":"1f.42"}"#,
            ),
            (
                r#"{"type":"a.b","offset":7,"n":1}"#,
                r#"{"type":"a.b","offset":"1f.42","n":1}"#,
            ),
            (
                r#"{"type":"a.b","off\u0073et":7}"#,
                r#"{"type":"a.b","off\u0073et":"1f.42"}"#,
            ),
            (
                r#"{"type":"a.b","n":"offset","m":{"offset":1}}"#,
                r#"{"type":"a.b","n":"offset","m":{"offset":1},"offset":"1f.42"}"#,
            ),
        ] {
            let event = Event::from_json(json).unwrap();
            assert_eq!(event.json_with("offset", &position), expected);
        }
    }
}
