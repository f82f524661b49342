//! Gate: freezes all tasks of one process, as SIGSTOP does. Only in tests.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// Freezes all tasks of one process (cheap to clone). Several processes in one runtime have a gate
/// each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<Mutex<GateState>>);

#[derive(Debug, Default)]
struct GateState {
    is_closed: bool,
    waiting: Vec<Waker>,
}

/// A future that makes no progress while its gate is closed. Its timers go on, as in a process that
/// is stopped.
pub(crate) struct Held<T> {
    gate: Gate,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.0.lock().is_closed = true;
    }

    pub(crate) fn open(&self) {
        let mut state = self.0.lock();
        state.is_closed = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting {
            waker.wake();
        }
    }

    pub(crate) fn hold<F>(&self, future: F) -> Held<F::Output>
    where
        F: Future + Send + 'static,
    {
        Held {
            gate: self.clone(),
            future: Box::pin(future),
        }
    }
}

impl<T> Future for Held<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        {
            let mut state = self.gate.0.lock();
            if state.is_closed {
                if !state
                    .waiting
                    .iter()
                    .any(|waker| waker.will_wake(cx.waker()))
                {
                    state.waiting.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
        self.future.as_mut().poll(cx)
    }
}
