//! Dashboard: the figures of the server, live, and what staff may do with its sockets.
//!
//! ```text
//! page ──► {"id": 1, "call": "sockets", ...}          a question, or an action
//!      ◄── {"type": "reply", "id": 1, "value": ...}   or "error": a sentence
//!      ◄── {"type": "snapshot", "seq": 7, ...}        all figures, once
//!      ◄── {"type": "update", "seq": 8, ...}          what has changed (RFC 7396), every second
//! ```
//!
//! Questions are answered in tasks of their own, because another process may take a second to reply:
//! an action does not wait for them.
//!
//! `sampler.rs` takes the snapshots, once a second for all pages together and only while there is
//! one. `call.rs` has the calls, `answer.rs` carries them out.

mod answer;
mod call;
mod merge_patch;
mod sampler;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use self::call::{Call, Request};
use self::sampler::Sampler;
use crate::scope::Scope;
use crate::services::Services;
use crate::websocket::{Accept, Close, CloseCode, Consumer, Context, Denial, Message};

/// How many questions of a page are answered at once; a further one is refused.
const QUESTIONS_MAX: usize = 8;

/// `consumer = "dashboard"`: the figures of the server for the page of the view `dashboard`, live,
/// and the actions of its user. No options. Only staff is let in.
#[derive(Debug, Default)]
pub struct Dashboard {
    sampler: Option<Arc<Sampler>>,
    /// Whether a reload that this page asked for is under way.
    is_reloading: Arc<AtomicBool>,
    /// Each question that is being answered holds a clone.
    questions: Arc<()>,
}

impl Consumer for Dashboard {
    type Options = ();

    fn new((): &()) -> Self {
        Self::default()
    }

    fn started((): &(), services: &Services) {
        services.recent_ends.keep();
    }

    async fn connect(&mut self, scope: &Scope) -> Result<Accept, Denial> {
        match &scope.user {
            Some(user) if user.is_staff => Ok(Accept::default()),
            Some(_) => Err(Denial::forbidden("staff only")),
            None => Err(Denial::forbidden("log in first")),
        }
    }

    async fn open(&mut self, cx: &mut Context<'_>) -> Result<(), Close> {
        let sampler = cx.services().shared::<Sampler>();
        sampler.add(cx.services(), cx.handle());
        self.sampler = Some(sampler);
        Ok(())
    }

    async fn receive(&mut self, cx: &mut Context<'_>, message: Message) -> Result<(), Close> {
        let request: Option<Request> = message
            .as_text()
            .and_then(|text| serde_json::from_str(text).ok());
        let Some(Request { id, call }) = request else {
            let error = "expected a call such as {\"id\": 1, \"call\": \"groups\"}";
            return send(cx, &json!({"type": "reply", "id": null, "error": error}));
        };
        if let (Call::Snapshot, Some(sampler)) = (&call, &self.sampler) {
            sampler.start_over(cx.id());
        }
        if let Call::Reload = &call {
            return self.reload(cx, id);
        }
        if call.is_question() {
            return self.answer_later(cx, id, call);
        }
        let done = answer::answer(cx.services(), answer::user(cx), call).await;
        send(cx, &reply(id, done))
    }

    async fn disconnect(&mut self, cx: &mut Context<'_>, _code: CloseCode) {
        if let Some(sampler) = self.sampler.take() {
            sampler.remove(cx.id());
        }
    }
}

impl Dashboard {
    /// Answers a question in a task of its own.
    fn answer_later(&self, cx: &mut Context<'_>, id: u64, call: Call) -> Result<(), Close> {
        if Arc::strong_count(&self.questions) > QUESTIONS_MAX {
            let error = format!("more than {QUESTIONS_MAX} questions wait for their answers");
            return send(cx, &reply(id, Err(error)));
        }
        let (services, handle) = (cx.services().clone(), Arc::downgrade(cx.handle()));
        let (user, question) = (answer::user(cx).to_owned(), self.questions.clone());
        let tasks = services.tasks.clone();
        tasks.spawn("dashboard's question", async move {
            let answer = answer::answer(&services, &user, call).await;
            drop(question);
            if let Some(handle) = handle.upgrade() {
                handle.send_message(&Message::from(reply(id, answer).to_string()));
            }
        });
        Ok(())
    }

    /// Reloads the configuration in a task of its own: other calls of the page go on meanwhile.
    fn reload(&self, cx: &mut Context<'_>, id: u64) -> Result<(), Close> {
        if self.is_reloading.swap(true, Ordering::Relaxed) {
            let error = "a reload is under way";
            return send(cx, &json!({"type": "reply", "id": id, "error": error}));
        }
        tracing::info!(
            user = answer::user(cx),
            "dashboard: reload the configuration"
        );
        let (services, handle) = (cx.services().clone(), Arc::downgrade(cx.handle()));
        let is_reloading = self.is_reloading.clone();
        let tasks = services.tasks.clone();
        tasks.spawn("dashboard's reload", async move {
            let report = services.reload.request().await;
            is_reloading.store(false, Ordering::Relaxed);
            // A reload may have changed the page's own route, which closes it.
            if let Some(handle) = handle.upgrade() {
                let reply = json!({"type": "reply", "id": id, "value": report}).to_string();
                handle.send_message(&Message::from(reply));
            }
        });
        Ok(())
    }
}

fn reply(id: u64, answer: Result<Value, String>) -> Value {
    match answer {
        Ok(value) => json!({"type": "reply", "id": id, "value": value}),
        Err(sentence) => json!({"type": "reply", "id": id, "error": sentence}),
    }
}

fn send(cx: &mut Context<'_>, value: &Value) -> Result<(), Close> {
    cx.send_json(value)?;
    Ok(())
}
