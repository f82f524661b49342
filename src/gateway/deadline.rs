//! Deadline: polls work until an instant, and turns its panic or timeout into a failure.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::http::Failure;

/// The time at which work must be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    /// The work bounds its own time.
    Never,
    /// At an instant.
    At(Instant),
    /// This long after it first had to wait.
    Within(Duration),
}

impl Deadline {
    fn instant(self) -> Option<Instant> {
        match self {
            Self::Never => None,
            Self::At(instant) => Some(instant),
            Self::Within(time) => Some(Instant::now() + time),
        }
    }
}

/// Runs `work`. Past the deadline, drops it and fails with 504 and the sentence `timed_out`. A
/// panic is counted, and fails with 500 and the cause `panicked`.
pub(super) async fn run_until<T>(
    deadline: Deadline,
    timed_out: &'static str,
    panicked: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    let mut timer = None;
    std::future::poll_fn(|cx| {
        match caught(panicked, || work.as_mut().poll(cx)) {
            Ok(Poll::Ready(outcome)) => return Poll::Ready(outcome),
            Ok(Poll::Pending) => {}
            Err(failure) => return Poll::Ready(Err(failure)),
        }
        // Boxed on the first wait, so work that completes at once costs neither a timer nor an
        // allocation.
        if timer.is_none() {
            timer = deadline.instant().map(|at| Box::pin(expired(at)));
        }
        let Some(timer) = &mut timer else {
            return Poll::Pending;
        };
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, timed_out)))
    })
    .await
}

/// Calls `work`. A panic is counted, and fails with 500 and the cause `panicked`.
pub(super) fn caught<T>(panicked: &'static str, work: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        metrics::counter!("oneport_panics_total").increment(1);
        Failure::from(panicked)
    })
}

/// Completes after `deadline`, once the sockets have been read.
///
/// When the process was suspended, the runtime may fire its timers before it reads the sockets: the
/// signal that continues the process interrupts the wait for both. A further timer fires only after
/// the runtime has looked at the sockets, so `work` sees the bytes that arrived in the meantime.
async fn expired(deadline: Instant) {
    tokio::time::sleep_until(deadline.into()).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}
