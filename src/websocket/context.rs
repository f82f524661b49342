//! Context: a consumer's access to its socket.

use std::future::poll_fn;
use std::sync::Arc;

use serde::Serialize;

use super::close::Ending;
use super::frame::Opcode;
use super::message::Message;
use super::socket_handle::SocketHandle;
use super::thread_buffers::{self, READ_BYTES};
use crate::channels::{
    ChannelLayer, Event, GroupLimitReached, GroupName, GroupOptions, LayerError, Sent, Start,
    Subscriber,
};
use crate::scope::Scope;
use crate::services::Services;
use crate::state::MissingState;

/// A consumer's access to its open socket. It exists only after the upgrade.
#[derive(Debug)]
pub struct Context<'a> {
    handle: &'a Arc<SocketHandle>,
    ending: Option<&'a Ending>,
}

impl<'a> Context<'a> {
    pub(super) fn new(handle: &'a Arc<SocketHandle>) -> Self {
        Self {
            handle,
            ending: None,
        }
    }

    /// Creates the context of `disconnect`.
    pub(super) fn ended(handle: &'a Arc<SocketHandle>, ending: &'a Ending) -> Self {
        let ending = Some(ending);
        Self { handle, ending }
    }
}

impl Context<'_> {
    /// Returns the request that became this socket.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        self.handle.scope()
    }

    /// Returns the socket's number, unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.handle.id()
    }

    /// Returns how the socket ended, in `disconnect`.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        self.ending
    }

    pub(super) fn handle(&self) -> &Arc<SocketHandle> {
        self.handle
    }

    /// Returns the services that all views and consumers share.
    #[must_use]
    pub fn services(&self) -> &Services {
        self.handle.services()
    }

    /// Returns the application's value of a type, which its `main` passed to `Registry::state`.
    pub fn state<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        self.services().state()
    }

    /// Returns the channel layer.
    #[must_use]
    pub fn layer(&self) -> &ChannelLayer {
        &self.services().layer
    }

    /// Sends a message to the client.
    ///
    /// It never waits. Everything a consumer sends while handling one batch of messages goes out in
    /// a single write. If the client does not read fast enough, the route's `slow_client` decides
    /// what happens; [`Context::drained`] waits for the client. After the socket has ended,
    /// messages are dropped.
    pub fn send(&mut self, message: impl Into<Message>) {
        match message.into() {
            Message::Text(text) => self.send_frame(Opcode::Text, text.as_ref()),
            Message::Binary(bytes) => self.send_frame(Opcode::Binary, &bytes),
        }
    }

    /// Sends a value as a JSON text message. If the value has no JSON form, fails and sends
    /// nothing.
    pub fn send_json(&mut self, value: &impl Serialize) -> Result<(), serde_json::Error> {
        let text = serde_json::to_vec(value)?;
        self.send_frame(Opcode::Text, &text);
        Ok(())
    }

    /// Waits until at most half of the route's `send_queue` is full: for consumers that send much
    /// at once.
    ///
    /// The write that makes room wakes it. It also returns when the socket ends, so a client that
    /// does not read delays it for `write_timeout` at most.
    pub async fn drained(&mut self) {
        self.flush();
        poll_fn(|task| self.handle.poll_drained(task)).await;
    }

    /// Joins a group by events: the consumer's `event` is called for each, one after the other.
    ///
    /// When this returns, events from other processes arrive too. A socket that is in the group
    /// already stays as it joined.
    ///
    /// Fails if the socket, or the clients of its address, are in as many groups as they may be
    /// (`server.limits.groups_per_socket`, `groups_per_ip`). `?` then ends the socket with 1008 or
    /// 1013; a consumer that goes on without the group tells its client.
    pub async fn group_add(&mut self, group: &GroupName) -> Result<(), GroupLimitReached> {
        let mailbox: Arc<dyn Subscriber> = self.handle.mailbox().clone();
        self.join(group, &mailbox, GroupOptions::default()).await
    }

    /// Joins a group by frames: each event is sent to the client as it is, without waking the
    /// consumer.
    ///
    /// An event is framed once for all members and written straight to their sockets. The group's
    /// history comes first, if the options ask for one. With `recover`, a client that reconnects
    /// with `?since=POSITION` instead gets a message that announces the recovery, then the events
    /// that it missed.
    ///
    /// Fails as [`Context::group_add`] does.
    pub async fn group_add_frames(
        &mut self,
        group: &GroupName,
        options: GroupOptions,
    ) -> Result<(), GroupLimitReached> {
        self.flush(); // output from before the join stays before the group's events
        let handle: Arc<dyn Subscriber> = self.handle.clone();
        self.join(group, &handle, options).await
    }

    /// Leaves a group. When this returns, no further event of the group is queued; events already
    /// queued still arrive.
    pub fn group_discard(&mut self, group: &GroupName) {
        self.handle.leave_group(group);
        self.layer().group_discard(group, self.id());
    }

    /// Sends an event to all members of a group, including this socket if it is a member.
    pub fn group_send<'s>(
        &'s mut self,
        group: &'s GroupName,
        event: Event,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'s> {
        let layer = &self.handle.services().layer;
        layer.group_send(group, event, None)
    }

    /// Sends an event to all members of a group except this socket.
    pub fn group_send_others<'s>(
        &'s mut self,
        group: &'s GroupName,
        event: Event,
    ) -> impl Future<Output = Result<Sent, LayerError>> + Send + use<'s> {
        let (layer, id) = (&self.handle.services().layer, self.id());
        layer.group_send(group, event, Some(id))
    }

    async fn join(
        &mut self,
        group: &GroupName,
        subscriber: &Arc<dyn Subscriber>,
        options: GroupOptions,
    ) -> Result<(), GroupLimitReached> {
        let layer = self.layer().clone();
        let held = match layer.remote() {
            Some(_) => {
                self.handle.check_group(group)?;
                Some(Box::pin(layer.prepare(group, &options, self.id())).await)
            }
            None => None,
        };
        let since = options.recover.then(|| self.scope().query("since"));
        let start = match since.flatten().filter(|since| !since.is_empty()) {
            // A malformed position is treated like one that is no longer known.
            Some(since) => Start::After(since.parse().unwrap_or_default()),
            None => Start::History,
        };
        if let (Start::After(since), Some(prepared)) = (&start, &held) {
            layer.confirm_history(group, prepared, since).await;
        }
        // Counted before it joins: other sockets of the address may have joined in the meantime.
        self.handle.join_group(&mut self.handle.groups(), group)?;
        let user = self.scope().user.clone();
        layer.group_resume(group, self.id(), subscriber, user, options, start);
        Ok(())
    }

    /// Appends the frame to the output of this poll. A frame that does not fit is sent at once,
    /// after the output before it.
    fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let handle = self.handle;
        let is_sent = thread_buffers::with(|buffers| {
            let is_owner = buffers.is_owned_by(handle.id());
            if is_owner && buffers.output.len() + payload.len() <= READ_BYTES {
                let is_encoded = handle.encode(opcode, payload, &mut buffers.output);
                buffers.messages += u32::from(is_encoded);
                return is_encoded;
            }
            if is_owner && !buffers.output.is_empty() {
                handle.send(&buffers.output, buffers.messages);
                buffers.clear_output();
            }
            // Encoded behind the output of another owner, if there is any, and then removed: that
            // saves a buffer.
            let output = &mut buffers.output;
            let before = output.len();
            let is_encoded = handle.encode(opcode, payload, output);
            if is_encoded {
                handle.send(&output[before..], 1);
            }
            output.truncate(before);
            is_encoded
        });
        if !is_sent {
            self.flush();
            self.handle.send_with_context(opcode, payload);
        }
    }

    /// Sends the output of this poll now.
    fn flush(&mut self) {
        let handle = self.handle;
        thread_buffers::with(|buffers| {
            if buffers.is_owned_by(handle.id()) && !buffers.output.is_empty() {
                handle.send(&buffers.output, buffers.messages);
                buffers.clear_output();
            }
        });
    }
}
