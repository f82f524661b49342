//! Events: streams a group as Server-Sent Events.

use std::fmt::Write;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderName, HeaderValue, header};
use http_body::Frame;
use tokio::time::{Instant, Sleep};

use crate::auth::User;
use crate::channels::event::Shown;
use crate::channels::{GroupName, GroupOptions, Mailbox, Received, Start, Subscriber};
use crate::config::{OptionErrors, WrittenDuration};
use crate::group_pattern::{GroupError, GroupPattern};
use crate::http::body::BodyError;
use crate::http::event_streams::{EventStreams, OpenEventStream, Turn};
use crate::http::{Body, ClientEnd, Failure, OnDisconnect, Request, Response, View};
use crate::routing::RouteContext;
use crate::services::Services;

/// Marks a gap: events are missing at this position.
const GAP: &str = "event: oneport.gap\ndata: {}\n\n";

/// The last event of a stream whose login has ended.
const SESSION_ENDED: &[u8] = b"event: oneport.session_ended\ndata: {}\n\n";

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// `view = "events"`: a group as Server-Sent Events (WHATWG HTML, section 9.2).
///
/// Each event is a `message` whose data is the event's JSON (or the text of a raw frame, or the
/// base64 of a binary one) and whose id is its position. A client that reconnects with
/// `Last-Event-ID` (or `?last_event_id=`) gets the missed events from the group's history. If the
/// history does not reach back that far, an event named `oneport.gap` comes first. The same event
/// marks a position where events were dropped because the client was too slow. The stream starts
/// with the group's position at the join, as an id without data, so that a client that disconnects
/// before the first event misses nothing either. Comments keep the connection alive. If the
/// stream's login ends, the last event is named `oneport.session_ended`.
#[derive(Debug)]
pub struct Events {
    options: Options,
}

/// The options of `events`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// The group, such as `news_{topic}`.
    group: GroupPattern,
    /// The number of newest events kept for clients that reconnect.
    #[serde(default)]
    history: usize,
    /// How long these events are kept.
    #[serde(default = "history_expiry")]
    history_expiry: WrittenDuration,
    /// The interval of comments while there is no event.
    #[serde(default = "heartbeat")]
    heartbeat: WrittenDuration,
    /// The delay after which a disconnected client reconnects.
    #[serde(default = "retry")]
    retry: WrittenDuration,
}

fn history_expiry() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(3600))
}

fn heartbeat() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(15))
}

fn retry() -> WrittenDuration {
    WrittenDuration(Duration::from_secs(3))
}

impl View for Events {
    type Options = Options;

    fn new(options: Options) -> Result<Self, OptionErrors> {
        let mut errors = OptionErrors::default();
        if options.heartbeat.0.is_zero() {
            errors.error("heartbeat", "expected a duration above zero, found \"0s\"");
        }
        errors.into_result(Self { options })
    }

    fn mount(&mut self, route: &RouteContext<'_>) -> Result<(), OptionErrors> {
        let errors = self.options.group.check("group", &route.params);
        errors.into_iter().collect::<OptionErrors>().into_result(())
    }

    fn on_disconnect() -> OnDisconnect {
        OnDisconnect::Cancel
    }

    async fn call(&self, request: Request) -> Result<Response, Failure> {
        let scope = &request.scope;
        let group = self
            .options
            .group
            .group(scope)
            .map_err(|error| match error {
                GroupError::Anonymous { .. } => Failure::forbidden("log in first"),
                GroupError::NotAName { .. } => Failure::not_found(error.to_string()),
                GroupError::NoParam { .. } => Failure::from(error),
            })?;
        let last_id = scope
            .headers
            .get(&LAST_EVENT_ID)
            .map(|id| String::from_utf8_lossy(id).trim().to_owned())
            .filter(|id| !id.is_empty())
            .or_else(|| scope.query("last_event_id"))
            .filter(|id| !id.is_empty());
        let streams = request.services.shared::<EventStreams>();
        // After a restart, the client gets its stream, which ends, and reconnects.
        if let Some(pace) = streams.draining()
            && !request.services.tasks.is_replaced()
        {
            return Err(Failure::stopping(pace.seconds_of(0)));
        }
        let keep = GroupOptions {
            history: self.options.history,
            history_expiry: self.options.history_expiry.0,
            ..GroupOptions::default()
        };
        let member = request.services.layer.next_member();
        // Registered before the first await: the login may end while the join is prepared.
        let open = streams.open(member, scope.login.as_ref());
        let client = scope.client.as_ref().map(|client| client.ip());
        let limits = &request.services.group_limits;
        let too_many = |_| Failure::too_many_groups();
        limits.check(client, 0, &group).map_err(too_many)?;
        let layer = &request.services.layer;
        let begun = layer.begin(&group, &keep, member, client).await;
        let held = begun.map_err(|_| Failure::too_many_rooms())?;
        if let Some(last_id) = &last_id {
            let since = last_id.parse().unwrap_or_default();
            layer.confirm_history(&group, &held, &since).await;
        }
        // Without an await until the stream exists, whose end gives the place back.
        limits.claim(client, 0, &group).map_err(too_many)?;
        let stream = EventStream::new(
            &self.options,
            (group, member, client),
            (keep, last_id.as_deref()),
            (scope.user.clone(), request.services.clone()),
            (request.client.clone(), open),
        );
        let mut response = Response::new(Body::stream(stream));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(
            HeaderName::from_static("x-accel-buffering"),
            HeaderValue::from_static("no"),
        );
        Ok(response)
    }
}

/// The body of one response: a member of the group until it is dropped.
struct EventStream {
    services: Services,
    group: GroupName,
    member: u64,
    /// The address that the group counts for.
    address: Option<IpAddr>,
    mailbox: Arc<Mailbox>,
    heartbeat: Duration,
    /// Until the next comment; in a drain until the stream's [`Turn`].
    timer: Pin<Box<Sleep>>,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    session_ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Its turn in the drain, once it has asked for it.
    turn: Option<Turn>,
    is_over: bool,
    first: Option<String>,
    /// The stream has no end of its own, so it ends when the client's sending side closes.
    client: ClientEnd,
    open: OpenEventStream,
}

impl EventStream {
    fn new(
        options: &Options,
        (group, member, address): (GroupName, u64, Option<IpAddr>),
        (keep, last_id): (GroupOptions, Option<&str>),
        (user, services): (Option<Arc<User>>, Services),
        (client, open): (ClientEnd, OpenEventStream),
    ) -> Self {
        let layer = &services.layer;
        let mailbox = layer.mailbox();
        let subscriber: Arc<dyn Subscriber> = mailbox.clone();
        let start = match last_id {
            None => Start::Now,
            // An invalid position counts as an unknown one.
            Some(id) => Start::After(id.parse().unwrap_or_default()),
        };
        let joined = layer.group_resume(&group, member, &subscriber, user, keep, start);
        let mut first = format!("retry: {}\n", options.retry.0.as_millis());
        if let Some(joined) = &joined {
            // An id without data sets the client's last event id and dispatches no event.
            let _ = writeln!(first, "id: {}", joined.from);
        }
        first.push('\n');
        if joined.is_some_and(|joined| !joined.is_complete) {
            first.push_str(GAP);
        }
        let draining = services.tasks.handing_over_token();
        let heartbeat = options.heartbeat.0;
        Self {
            group,
            member,
            address,
            mailbox,
            heartbeat,
            timer: Box::pin(tokio::time::sleep(heartbeat)),
            draining: Box::pin(draining.cancelled_owned()),
            session_ended: Box::pin(open.ended().cancelled_owned()),
            turn: None,
            is_over: false,
            client,
            open,
            first: Some(first),
            services,
        }
    }

    fn write(received: &Received, out: &mut String) {
        let _ = writeln!(out, "id: {}", received.seen());
        match received.event.shown() {
            // One `data` line for each line of the text. `\n`, `\r` and `\r\n` each end a line.
            Shown::Text(text) => {
                for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
                    let _ = writeln!(out, "data: {line}");
                }
            }
            Shown::Bytes(bytes) => {
                let _ = writeln!(out, "data: {}", BASE64.encode(bytes));
            }
        }
        out.push('\n');
    }
}

impl http_body::Body for EventStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        // Checked before the queued events: a client whose login has ended must not receive them.
        if this.session_ended.as_mut().poll(cx).is_ready() {
            this.is_over = true;
            let last = Bytes::from_static(SESSION_ENDED);
            return Poll::Ready(Some(Ok(Frame::data(last))));
        }
        let mut out = this.first.take().unwrap_or_default();
        while let Poll::Ready(received) = this.mailbox.poll_receive(cx) {
            Self::write(&received, &mut out);
        }
        if this.mailbox.take_dropped() {
            out.push_str(GAP);
        }
        if !out.is_empty() {
            if this.turn.is_none() {
                this.timer.as_mut().reset(Instant::now() + this.heartbeat);
            }
            return Poll::Ready(Some(Ok(Frame::data(out.into()))));
        }
        if this.client.poll_gone(cx).is_ready() {
            return Poll::Ready(None);
        }
        if this.turn.is_none() && this.draining.as_mut().poll(cx).is_ready() {
            let turn = this.turn.insert(this.open.turn());
            this.timer.as_mut().reset(Instant::now() + turn.after);
        }
        if this.timer.as_mut().poll(cx).is_ready() {
            if let Some(turn) = this.turn {
                this.is_over = true;
                return Poll::Ready(turn.retry.map(|retry| {
                    let last = format!("retry: {}\n\n", retry.as_millis());
                    Ok(Frame::data(last.into()))
                }));
            }
            this.timer.as_mut().reset(Instant::now() + this.heartbeat);
            let _ = this.timer.as_mut().poll(cx);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(
                b": still here\n\n",
            )))));
        }
        Poll::Pending
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.services.layer.group_discard(&self.group, self.member);
        self.services.group_limits.release(self.address, 1);
    }
}
