//! Messages between processes: the input is one, or an event in the parts of a shared history.

use oneport::fuzzing::{layer_message, stored_event};

use crate::input::{block_on, split_tail};

pub fn run(data: &[u8]) {
    // In the runtime, whose clock stands still: a message tells the age of a sequence.
    block_on(async {
        if let Some(written) = layer_message(data) {
            let again = layer_message(&written).expect("what was written is read");
            assert_eq!(again, written);
        }
    });
    let (data, [at]) = split_tail(data);
    let (head, tail) = data.split_at(usize::from(at).min(data.len()));
    if let Some(event) = stored_event(head, tail) {
        assert!(!event.event_type().is_empty());
        let _ = (event.json(), event.size());
    }
}
