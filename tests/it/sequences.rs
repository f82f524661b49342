//! Sequences: frames that a client may or may not send, and the server's reply to each, however the
//! bytes arrive.

mod arrival;
mod broken;
mod close;
mod control;
mod fragments;
mod frame;
mod lengths;
mod limits;
mod output;
mod run;
mod text;

use std::collections::HashSet;

use run::{Sequence, check, check_live};

/// One in this many sequences also runs over TCP.
const LIVE_ONE_OF: usize = 8;

fn all() -> Vec<Sequence> {
    [
        lengths::sequences(),
        limits::sequences(),
        fragments::sequences(),
        control::sequences(),
        close::sequences(),
        broken::sequences(),
        text::sequences(),
    ]
    .concat()
}

#[tokio::test]
async fn lengths_in_every_form_are_read() {
    check(&lengths::sequences()).await;
}

#[tokio::test]
async fn limits_hold_to_the_byte() {
    check(&limits::sequences()).await;
}

#[tokio::test]
async fn fragments_become_one_message() {
    check(&fragments::sequences()).await;
}

#[tokio::test]
async fn control_frames_are_answered_in_their_place() {
    check(&control::sequences()).await;
}

#[tokio::test]
async fn close_frames_end_the_conversation() {
    check(&close::sequences()).await;
}

#[tokio::test]
async fn broken_frames_fail_with_1002() {
    check(&broken::sequences()).await;
}

#[tokio::test]
async fn invalid_utf8_fails_with_1007_at_its_first_invalid_byte() {
    check(&text::sequences()).await;
}

#[tokio::test]
async fn outcomes_are_the_same_over_tcp() {
    check_live(all().iter().step_by(LIVE_ONE_OF)).await;
}

#[test]
fn each_sequence_has_a_name_of_its_own() {
    let mut seen = HashSet::new();
    for sequence in all() {
        assert!(seen.insert(sequence.name.clone()), "{}", sequence.name);
    }
    assert!(seen.len() >= 1_000, "found {}", seen.len());
}
