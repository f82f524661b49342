//! Send: events for all members of a group.

use std::time::Duration;

use super::ChannelLayer;
use crate::channels::append::{NewEvent, Retention};
use crate::channels::{Event, GroupName, LayerError, Sent};
use crate::telemetry::trace::{self, Current, Span, SpanKind};

impl ChannelLayer {
    /// Sends an event to every member, except the one named; in order for each sender, at most once
    /// for each member.
    ///
    /// Never waits for a slow member. If events come faster than the members can be served, or
    /// faster than Redis takes them, waits for space, at most five seconds; then the event is
    /// dropped and counted.
    pub fn group_send<'a>(
        &'a self,
        group: &'a GroupName,
        event: Event,
        except: Option<u64>,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'a> {
        self.send_retaining(group, event, except, Retention::History)
    }

    /// Sends an event to every member without keeping it for those that join later.
    pub fn group_send_transient<'a>(
        &'a self,
        group: &'a GroupName,
        event: Event,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'a> {
        self.send_retaining(group, event, None, Retention::Transient)
    }

    /// Sends an event to every member and waits until all have been served; for those of other
    /// processes at most `wait`. Returns how many received it, over all processes.
    pub async fn group_send_counted(
        &self,
        group: &GroupName,
        event: Event,
        wait: Duration,
    ) -> Result<Sent, LayerError> {
        if let Some(span) = send_span(group) {
            let sending = self.send_counted_now(group, event, wait);
            return Box::pin(within_span(span, sending)).await;
        }
        self.send_counted_now(group, event, wait).await
    }

    async fn send_counted_now(
        &self,
        group: &GroupName,
        event: Event,
        wait: Duration,
    ) -> Result<Sent, LayerError> {
        if let Some(remote) = self.remote() {
            return remote.send_counted(group, event, wait).await;
        }
        let local = &self.0.local;
        local.send_counted(group, &event, Retention::History).await
    }

    async fn send_retaining(
        &self,
        group: &GroupName,
        event: Event,
        except: Option<u64>,
        retention: Retention,
    ) -> Result<Sent, LayerError> {
        if let Some(span) = send_span(group) {
            let sending = self.send_now(group, event, except, retention);
            return Box::pin(within_span(span, sending)).await;
        }
        self.send_now(group, event, except, retention).await
    }

    async fn send_now(
        &self,
        group: &GroupName,
        event: Event,
        except: Option<u64>,
        retention: Retention,
    ) -> Result<Sent, LayerError> {
        // The rare paths are boxed: otherwise the future of every sender would be as large as the
        // largest of them.
        if let Some(remote) = self.remote() {
            return Box::pin(remote.send(group, event, except, retention)).await;
        }
        let local = &self.0.local;
        let matched = match local.try_send(group, &NewEvent::new(&event, except), retention) {
            Ok(matched) => matched,
            Err(full) => {
                let new = NewEvent::new(&event, except);
                Box::pin(local.send_when_space(full, group, new, retention)).await?
            }
        };
        Ok(Sent {
            matched: matched.unwrap_or(0),
            ..Sent::default()
        })
    }
}

/// Starts the span of an event for a group; `None` while nothing is traced.
#[inline]
fn send_span(group: &GroupName) -> Option<Box<Span>> {
    if !trace::is_on() {
        return None;
    }
    let mut span = Span::child(SpanKind::Producer, "group_send")?;
    span.set("messaging.system", "oneport");
    span.set("messaging.operation.name", "group_send");
    span.set("messaging.operation.type", "send");
    span.set("messaging.destination.name", group.as_str());
    Some(Box::new(span))
}

/// Sends an event within its span, whose identity passes on to other processes.
async fn within_span(
    mut span: Box<Span>,
    sending: impl Future<Output = Result<Sent, LayerError>>,
) -> Result<Sent, LayerError> {
    let current = Current::Request(span.context().clone());
    let sent = trace::within(Some(current), sending).await;
    match &sent {
        Ok(sent) => span.set("oneport.group.members", sent.matched as u64),
        Err(_) => span.fail("not_sent"),
    }
    sent
}
