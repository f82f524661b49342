//! Echo: every message comes back; each connection keeps some in flight, or they leave at a fixed
//! rate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use crate::client::Client;
use crate::connection::Message;
use crate::histogram::Histogram;
use crate::schedule::Schedule;
use crate::window::{Phase, Window};
use crate::{Common, deflate, frame, json_text};

/// How long an open loop waits for its last responses.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(2);

/// How many responses of each connection are compared with what was sent, byte by byte.
const COMPARED: u64 = 2;

#[derive(Args)]
pub struct Echo {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Bytes of a message
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Messages in flight on one connection
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// Wait for all responses before the next messages go out, in one write
    #[arg(long)]
    burst: bool,
    /// An open loop: messages per second, over the connections in turn
    #[arg(long, conflicts_with_all = ["in_flight", "burst"])]
    rate: Option<f64>,
}

/// The state of one run.
struct Run<'a> {
    options: &'a Echo,
    payload: Vec<u8>,
    /// For each connection, when its unanswered messages were sent, or were due.
    sent: Vec<VecDeque<Instant>>,
    /// For each connection, the responses to the burst in flight.
    answered: Vec<usize>,
    latencies: Histogram,
    messages: u64,
    bytes: u64,
    to_compare: u64,
    wrong: u64,
}

impl Echo {
    pub fn run(&self) -> Result<Value> {
        let mut client = Client::open(self.common.target()?, self.connections)?;
        let payload = json_text(self.size);
        let frame = if self.common.deflate {
            frame::encode(frame::TEXT, true, &deflate::compress(&payload)?)
        } else {
            frame::encode(frame::TEXT, false, &payload)
        };
        let frames = frame.repeat(self.in_flight);
        let mut run = Run::new(self, payload);
        let mut schedule = Schedule::new(self.rate);
        if schedule.is_none() {
            for index in 0..self.connections {
                run.sent[index].extend([Instant::now()].repeat(self.in_flight));
                client.send(index, &frames);
            }
        }

        let mut window = self.common.window();
        let mut turns = (0..self.connections).cycle();
        let mut events = vec![];
        loop {
            let now = Instant::now();
            match window.phase(now) {
                Phase::Begins => run.begin(),
                Phase::Over => break,
                Phase::Running => {}
            }
            let mut timeout = Duration::from_millis(50);
            if let Some(schedule) = &mut schedule {
                while let Some(due) = schedule.due(now)
                    && let Some(index) = turns.next()
                {
                    run.sent[index].push_back(due);
                    client.send(index, &frame);
                }
                timeout = schedule.wait(Instant::now());
            }
            client.wait(&mut events, timeout)?;
            for ready in events.drain(..) {
                let index = ready.connection;
                let mut answers = 0;
                client.serve(ready, |message| {
                    answers += 1;
                    run.check(message);
                });
                if answers > 0 {
                    let again = run.answered(index, answers, &window);
                    if again > 0 && schedule.is_none() {
                        client.send(index, &frames[..again * frame.len()]);
                    }
                }
            }
        }
        let usage = window.usage();
        let (messages, bytes) = (run.messages, run.bytes);

        let deadline = Instant::now() + LAST_ANSWERS_MAX;
        while schedule.is_some() && run.waiting() > 0 && Instant::now() < deadline {
            client.wait(&mut events, Duration::from_millis(50))?;
            for ready in events.drain(..) {
                let mut answers = 0;
                client.serve(ready, |_| answers += 1);
                run.answered(ready.connection, answers, &window);
            }
        }
        let lost = schedule.map_or(0, |_| run.waiting());
        let mut result =
            json!({ "bytes": bytes as f64 / messages as f64, "wrong": run.wrong, "lost": lost });
        usage.report(messages, &run.latencies, &client.failures, &mut result);
        Ok(result)
    }
}

impl<'a> Run<'a> {
    fn new(options: &'a Echo, payload: Vec<u8>) -> Self {
        Self {
            options,
            payload,
            sent: vec![VecDeque::new(); options.connections],
            answered: vec![0; options.connections],
            latencies: Histogram::new(),
            messages: 0,
            bytes: 0,
            to_compare: COMPARED * options.connections as u64,
            wrong: 0,
        }
    }

    fn begin(&mut self) {
        self.latencies.clear();
        self.messages = 0;
        self.bytes = 0;
    }

    fn check(&mut self, message: &Message<'_>) {
        self.bytes += message.payload.len() as u64;
        if self.to_compare > 0 {
            self.to_compare -= 1;
            let same = if message.compressed {
                deflate::decompress(message.payload, self.options.size)
                    .is_ok_and(|payload| payload == self.payload)
            } else {
                message.payload == self.payload
            };
            self.wrong += u64::from(!same);
        } else if !message.compressed && message.payload.len() != self.options.size {
            self.wrong += 1;
        }
    }

    /// Records responses; returns how many messages the connection may send now in a closed loop.
    fn answered(&mut self, index: usize, answers: usize, window: &Window) -> usize {
        let now = Instant::now();
        self.messages += answers as u64;
        for _ in 0..answers {
            match self.sent[index].pop_front() {
                Some(sent) if self.options.rate.is_none() || window.holds(sent) => {
                    self.latencies.add(now - sent);
                }
                Some(_) => {}
                None => self.wrong += 1,
            }
        }
        if self.options.rate.is_some() {
            return 0;
        }
        let again = if self.options.burst {
            self.answered[index] += answers;
            if self.answered[index] < self.options.in_flight {
                return 0;
            }
            self.answered[index] = 0;
            self.options.in_flight
        } else {
            answers.min(self.options.in_flight)
        };
        self.sent[index].extend([now].repeat(again));
        again
    }

    fn waiting(&self) -> usize {
        self.sent.iter().map(VecDeque::len).sum()
    }
}
