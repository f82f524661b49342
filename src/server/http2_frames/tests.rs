//! What frames cost, wherever reads end, and which clients are ended for it.

use super::*;

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, 0, 0, 0, 0, 1]);
    frame.extend(payload);
    frame
}

fn frames() -> Http2Frames {
    Http2Frames::new(Clock::default())
}

#[test]
fn frames_are_found_wherever_reads_end() {
    let long = vec![7; 300];
    let payloads: [(u8, &[u8]); 6] = [
        (SETTINGS, &[]),
        (DATA, &long),
        (RST_STREAM, &[0, 0, 1, 8]),
        (RST_STREAM, &[8]), // malformed
        (PING, &[3; 8]),
        (DATA, &[]),
    ];
    let bytes: Vec<u8> = payloads
        .iter()
        .flat_map(|(kind, payload)| frame(*kind, payload))
        .collect();
    let expected = payloads.map(|(kind, payload)| Frame {
        kind,
        length: u32::try_from(payload.len()).unwrap(),
        code: (kind == RST_STREAM && payload.len() == 4).then_some(0x108),
    });
    for size in 1..bytes.len() {
        let mut reader = FrameReader::default();
        let mut found = Vec::new();
        for mut part in bytes.chunks(size) {
            while let Some(frame) = reader.next(&mut part) {
                found.push(frame);
            }
            assert!(part.is_empty());
        }
        assert_eq!(found, expected, "in reads of {size} bytes");
    }
}

#[test]
fn each_frame_without_content_is_charged_and_time_repays() {
    for (kind, payload, cost) in [
        (PING, &[0; 8][..], 1),
        (SETTINGS, &[], 1),
        (PRIORITY, &[0; 5], 1),
        (WINDOW_UPDATE, &[0; 4], 1),
        (RST_STREAM, &[0; 4], 2),
        (DATA, &[], 1),
        (7, &[0; 8], 1),     // GOAWAY
        (0x16, &[0; 50], 1), // unknown
    ] {
        let mut frames = frames();
        let one = frame(kind, payload);
        for _ in 0..BUDGET / cost {
            assert_eq!(frames.receive(&one), one.len());
        }
        assert!(!frames.has_flooded(), "{kind}");
        frames.budget.clock.turn(500);
        for _ in 0..REPAID_PER_SECOND / 2 / cost {
            frames.receive(&one);
        }
        assert!(!frames.has_flooded(), "{kind}");
        frames.receive(&one);
        assert!(frames.has_flooded(), "{kind}");
    }
}

#[test]
fn frames_with_content_cost_nothing_and_repay() {
    let mut frames = frames();
    let update = frame(WINDOW_UPDATE, &[0; 4]);
    for _ in 0..3 * BUDGET {
        frames.receive(&frame(DATA, b"a"));
        frames.receive(&frame(CONTINUATION, b"a"));
    }
    assert_eq!(frames.budget.spent, 0);
    // Two windows are opened for each frame that was received, and one for each request.
    for _ in 0..3 * BUDGET {
        frames.send(&frame(DATA, b"a"));
        frames.receive(&[&*update, &*update].concat());
        frames.receive(&[&*update, &*frame(HEADERS, b"a")].concat());
    }
    assert!(!frames.has_flooded());
    // Requests that are cancelled after their answers cost nothing, with the PING of Go's client.
    let (request, reset) = (frame(HEADERS, b"a"), frame(RST_STREAM, &[0; 4]));
    for _ in 0..3 * BUDGET {
        frames.receive(&request);
        frames.send(&frame(HEADERS, b"a"));
        frames.receive(&[&*reset, &*frame(PING, &[0; 8])].concat());
    }
    assert!(!frames.has_flooded());
    // A request that is cancelled at once costs one.
    let cancelled = [request, reset].concat();
    for _ in 0..=BUDGET {
        frames.receive(&cancelled);
    }
    assert!(frames.has_flooded());
}

#[test]
fn h2_reads_an_endless_head_behind_the_frame_that_is_one_too_many() {
    let mut frames = frames();
    let ping = frame(PING, &[0; 8]);
    frames.receive(&ping.repeat(usize::try_from(BUDGET).unwrap()));
    assert_eq!(frames.receive(&ping[..12]), 12);
    assert!(frames.has_flooded() && !frames.is_ending());
    let rest = [&ping[12..], &*ping].concat();
    assert_eq!(frames.receive(&rest), ping.len() - 12);
    assert!(frames.is_ending());
    let mut read = Vec::new();
    for size in [4, 9, 100] {
        let mut buffer = vec![0; size];
        frames.end(&mut ReadBuf::new(&mut buffer)).unwrap();
        read.extend(buffer);
    }
    let (head, rest) = read.split_at(FRAME_HEAD_BYTES);
    assert_eq!(head, [0, 0, 0, HEADERS, 0, 0, 0, 0, 1]);
    for frame in rest.chunks_exact(FRAME_HEAD_BYTES) {
        assert_eq!(frame, [0, 0, 0, CONTINUATION, 0, 0, 0, 0, 1]);
    }
    // A library that read it for ever would keep a thread busy.
    let mut buffer = vec![0; 1 << 20];
    frames.end(&mut ReadBuf::new(&mut buffer)).unwrap();
    assert!(frames.end(&mut ReadBuf::new(&mut buffer)).is_err());
}

/// Content of 16 KiB, as h2 sends it.
fn content() -> Vec<u8> {
    frame(DATA, &[7; 16 << 10])
}

/// What acknowledges content in parts of so many bytes, each for the stream and the connection.
fn acknowledgements(sent: usize, part: usize) -> Vec<u8> {
    frame(WINDOW_UPDATE, &[0; 4]).repeat(2 * sent / part)
}

#[test]
fn client_that_acknowledges_small_parts_is_never_ended() {
    let content = content();
    for part in [1 << 10, 2 << 10, 4 << 10] {
        let mut frames = frames();
        for number in 0..4096 {
            frames.send(&content);
            frames.receive(&acknowledgements(16 << 10, part));
            // It measures its way, as gRPC does.
            if number % 2 == 1 {
                frames.receive(&frame(PING, &[0; 8]));
            }
        }
        assert!(!frames.has_flooded(), "{part}");
    }
    // Its reader takes much later what it has stored.
    let mut frames = frames();
    for _ in 0..4096 {
        frames.send(&content);
    }
    frames.receive(&acknowledgements(64 << 20, 2 << 10));
    assert_eq!(frames.budget.spent, 0);
}

#[test]
fn acknowledgements_of_nothing_are_charged() {
    let update = frame(WINDOW_UPDATE, &[0; 4]);
    let budget = usize::try_from(BUDGET).unwrap();
    for (sent, free) in [(0, 0), (64, 64 * 32), (1 << 16, 1 << 18)] {
        let mut frames = frames();
        let content = content();
        for _ in 0..sent {
            frames.send(&content);
        }
        frames.receive(&update.repeat(free + budget));
        assert!(!frames.has_flooded(), "{sent}");
        frames.receive(&update);
        assert!(frames.has_flooded(), "{sent}");
    }
    // They are no credit for other frames.
    let mut frames = frames();
    frames.send(&content().repeat(64));
    frames.receive(&frame(PING, &[0; 8]).repeat(budget + 1));
    assert!(frames.has_flooded());
}
