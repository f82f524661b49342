//! Access log: a line for each response and each closed WebSocket.
//!
//! ```text
//! AccessRecord ──> Renderer ──┬─ Lines: text or JSON, with fields ─┬──> LogQueue of the log, or
//!   (its facts)               └─ AccessTemplate: common, combined  ┘    of `access_file`
//! ```
//!
//! Before [`start_log`](super::start_log), a line is an event of `tracing` with the target
//! [`ACCESS`](super::ACCESS), so that a program with a subscriber of its own gets it.
//!
//! | file | subject |
//! |---|---|
//! | `record.rs` | the facts of a line |
//! | `field.rs` | their names in the file |
//! | `lines.rs` | a line as text or JSON |
//! | `template.rs` | a line as a text with fields in braces |
//! | `rule.rs` | which requests of a route get a line |

mod field;
mod lines;
mod record;
mod rule;
mod template;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU8, Ordering};

use arc_swap::ArcSwapOption;

use super::log::ACCESS;
use super::log_queue::LogQueue;

pub use field::AccessField;
pub(crate) use record::{AccessKind, AccessRecord, RequestHeaders, SocketEnd};
pub use rule::AccessRule;
pub use template::AccessTemplate;

pub(super) use lines::{Lines, Style};

/// The form of the lines.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum AccessFormat {
    /// That of the log.
    #[default]
    AsLog,
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
    /// Any other line.
    Template(AccessTemplate),
}

impl AccessFormat {
    /// Parses `text`, `json`, `common`, `combined` or a line with fields in braces; "" is the form
    /// of the log.
    pub fn parse(written: &str) -> Result<Self, String> {
        Ok(match written {
            "" => Self::AsLog,
            "text" => Self::Text,
            "json" => Self::Json,
            "common" => Self::Template(AccessTemplate::parse(template::COMMON)?),
            "combined" => Self::Template(AccessTemplate::parse(template::COMBINED)?),
            line => Self::Template(AccessTemplate::parse(line)?),
        })
    }
}

/// How lines are written.
pub(super) enum Renderer {
    Lines(Lines),
    Template(AccessTemplate),
}

/// Where lines go, and how.
pub(super) struct AccessLog {
    pub(super) renderer: Renderer,
    pub(super) queue: LogQueue,
}

/// Lines are events of `tracing`.
const EVENTS: u8 = 0;
const OFF: u8 = 1;
/// Lines go to [`LOG`].
const ON: u8 = 2;

static MODE: AtomicU8 = AtomicU8::new(EVENTS);
static LOG: ArcSwapOption<AccessLog> = ArcSwapOption::const_empty();

/// Replaces the access log; `None` turns it off.
pub(super) fn set(log: Option<AccessLog>) {
    let mode = if log.is_some() { ON } else { OFF };
    LOG.store(log.map(std::sync::Arc::new));
    MODE.store(mode, Ordering::Release);
}

/// Returns whether lines are written.
#[inline]
pub(crate) fn is_on() -> bool {
    match MODE.load(Ordering::Acquire) {
        ON => true,
        OFF => false,
        _ => tracing::enabled!(target: ACCESS, tracing::Level::INFO),
    }
}

/// Writes a line.
pub(crate) fn write(record: &AccessRecord<'_>) {
    match MODE.load(Ordering::Acquire) {
        ON => {
            if let Some(log) = &*LOG.load() {
                log.write(record);
            }
        }
        OFF => {}
        _ => emit(record),
    }
}

impl AccessLog {
    fn write(&self, record: &AccessRecord<'_>) {
        thread_local! {
            static LINE: RefCell<String> = const { RefCell::new(String::new()) };
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            self.renderer.write(line, record);
            self.queue.push(line.as_bytes());
        });
    }
}

impl Renderer {
    /// Writes a line with its end, or nothing.
    fn write(&self, line: &mut String, record: &AccessRecord<'_>) {
        match self {
            Self::Lines(lines) => lines.write(line, record),
            // Such a line stands for a whole exchange: a socket's is written at its end.
            Self::Template(_)
                if record.kind == AccessKind::Handshake && has_opened(record.status) => {}
            Self::Template(template) => template.write(line, record),
        }
    }
}

/// Returns whether a handshake's status opens a socket: 101, or 200 over HTTP/2.
const fn has_opened(status: u16) -> bool {
    matches!(status, 101 | 200)
}

/// Makes an event of a line.
fn emit(record: &AccessRecord<'_>) {
    let client = record.client.map(tracing::field::display);
    match &record.end {
        None => tracing::info!(
            target: ACCESS,
            id = %record.id,
            trace_id = record.trace_id.map(tracing::field::display),
            client,
            method = record.method,
            path = record.path,
            route = record.route,
            user = record.user,
            status = record.status,
            bytes = record.bytes,
            seconds = record.seconds,
            "{}",
            record.kind.as_str()
        ),
        Some(end) => tracing::info!(
            target: ACCESS,
            id = %record.id,
            trace_id = record.trace_id.map(tracing::field::display),
            client,
            path = record.path,
            route = record.route,
            user = record.user,
            code = end.code,
            client_code = end.client_code,
            upstream_code = end.upstream_code,
            cause = end.cause,
            reason = Some(end.reason).filter(|reason| !reason.is_empty()),
            seconds = record.seconds,
            messages = end.messages,
            bytes_in = end.bytes_in,
            bytes_out = end.bytes_out,
            dropped = end.dropped,
            "{}",
            record.kind.as_str()
        ),
    }
}
