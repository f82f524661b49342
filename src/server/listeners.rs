//! Listeners: the places where the server accepts connections, by their entry of `server.bind`.
//!
//! ```text
//! missing ──> Opened::open ──> Listeners::apply ──> accepting ──> apply without it: closing
//!                  │ one fails: all are closed          │             │ accepts what has arrived
//!                  └── the running ones go on           │             └── closed
//!                                                       └── hand_over: stops at once, another
//!                                                           process accepts what has arrived
//! inherited ──> Opened::open ──> accepting ──> take_over: its options and file are ours
//! ```
//!
//! An entry is known by its address: one that stays keeps its listener, and its new options apply
//! to new connections. The connections of a listener that is closed go on.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::net::{Acceptor, AccessChange, Admission, Bind, FileIdentity, Listen, Listener, Serve};
use crate::tasks::{TaskSet, Tasks};

/// How long opening one entry may take: a host's name is looked up.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// A listener that another process of this server has opened.
#[derive(Debug)]
pub(super) struct Inherited {
    /// The address of its entry.
    pub(super) bind: Bind,
    /// The file of a unix socket.
    pub(super) file: Option<FileIdentity>,
    pub(super) descriptor: OwnedFd,
}

/// The listeners of a server, each with its accept loop. Dropping it closes them at once.
pub(super) struct Listeners<S> {
    open: Vec<Accepting<S>>,
    admission: Admission,
    tasks: Tasks,
}

/// An entry whose listeners accept connections. A host's name may have several.
struct Accepting<S> {
    listen: Listen,
    listeners: Vec<Arc<Listener>>,
    services: Vec<Arc<ArcSwap<S>>>,
    /// The accept loops, ended by `closing` or by their drop.
    loops: TaskSet<()>,
    closing: CancellationToken,
}

/// Listeners that are being closed. Dropping it resets the connections that have arrived.
#[must_use = "they accept until it is finished or dropped"]
pub(super) struct Closing<S>(Vec<Accepting<S>>);

/// Listeners that are open and accept nothing yet. Dropping it closes them.
#[derive(Debug, Default)]
pub(super) struct Opened(Vec<(Listen, Vec<Listener>)>);

/// An entry that cannot be opened.
#[derive(Debug, Error)]
#[error("cannot listen at {bind}: {cause}")]
pub(super) struct OpenError {
    /// The entry's index in `server.bind`.
    pub(super) index: usize,
    pub(super) bind: Bind,
    pub(super) cause: io::Error,
}

impl Opened {
    /// Opens the listeners of entries, all or none. Those that were inherited for the same address
    /// are taken instead; the rest of these is closed.
    pub(super) async fn open(
        missing: Vec<(usize, Listen)>,
        mut inherited: Vec<Inherited>,
    ) -> Result<Self, OpenError> {
        let mut opened = Vec::with_capacity(missing.len());
        for (index, listen) in missing {
            let (ours, others) = inherited
                .into_iter()
                .partition(|one: &Inherited| one.bind == listen.address);
            inherited = others;
            match open_entry(&listen, ours).await {
                Ok(listeners) => opened.push((listen, listeners)),
                Err(cause) => {
                    return Err(OpenError {
                        index,
                        bind: listen.address,
                        cause,
                    });
                }
            }
        }
        Ok(Self(opened))
    }

    /// Returns the listeners with their entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Listen, &Listener)> {
        self.0
            .iter()
            .flat_map(|(listen, listeners)| listeners.iter().map(move |one| (listen, one)))
    }
}

async fn open_entry(listen: &Listen, inherited: Vec<Inherited>) -> io::Result<Vec<Listener>> {
    if !inherited.is_empty() {
        return inherited
            .into_iter()
            .map(|one| Listener::inherit(listen, one.descriptor, one.file))
            .collect();
    }
    let opening = tokio::time::timeout(OPEN_DEADLINE, Listener::open(listen));
    opening.await.unwrap_or_else(|_| {
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "its name could not be looked up in time",
        ))
    })
}

/// Returns the wanted entries that none of the open addresses serves, with their indices.
pub(super) fn missing(wanted: &[Listen], open: &[Bind]) -> Vec<(usize, Listen)> {
    let mut open: Vec<&Bind> = open.iter().collect();
    let mut missing = Vec::new();
    for (index, listen) in wanted.iter().enumerate() {
        // An address with port 0 may be wanted twice.
        match open.iter().position(|bind| **bind == listen.address) {
            Some(at) => drop(open.swap_remove(at)),
            None => missing.push((index, listen.clone())),
        }
    }
    missing
}

impl<S: Serve> Listeners<S> {
    pub(super) fn new(admission: Admission, tasks: Tasks) -> Self {
        Self {
            open: Vec::new(),
            admission,
            tasks,
        }
    }

    /// Returns the limits that all listeners share.
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Returns the addresses of the open entries.
    pub(super) fn addresses(&self) -> Vec<Bind> {
        let entries = self.open.iter();
        entries.map(|entry| entry.listen.address.clone()).collect()
    }

    /// Sets the permissions of the unix sockets that stay and have others now; all or none. Returns
    /// the changes, for a configuration that is applied to keep.
    pub(super) fn set_access(&self, wanted: &[Listen]) -> Result<Vec<AccessChange>, OpenError> {
        let mut changes = Vec::new();
        for (index, listen) in wanted.iter().enumerate() {
            let entries = self.open.iter();
            let changed = entries.filter(|entry| {
                entry.listen.address == listen.address && !entry.listen.has_access_of(listen)
            });
            for listener in changed.flat_map(|entry| &entry.listeners) {
                let change = listener.set_access(listen).map_err(|cause| OpenError {
                    index,
                    bind: listen.address.clone(),
                    cause,
                })?;
                changes.extend(change);
            }
        }
        Ok(changes)
    }

    /// Accepts at exactly the wanted entries: at `opened`, which are those that were [`missing`],
    /// and at the open ones that stay. `service` makes the service of a listener's new connections,
    /// for those that stay too. Returns what closes the others: they accept until it is polled.
    pub(super) fn apply(
        &mut self,
        wanted: &[Listen],
        opened: Opened,
        service: impl Fn(&Listen, &Listener) -> Arc<S>,
    ) -> Closing<S> {
        let mut before = std::mem::take(&mut self.open);
        let mut opened = opened.0;
        for listen in wanted {
            let stays = before
                .iter()
                .position(|entry| entry.listen.address == listen.address);
            if let Some(at) = stays {
                let mut entry = before.swap_remove(at);
                entry.configure(listen, &service);
                self.open.push(entry);
            } else if let Some(at) = opened
                .iter()
                .position(|(entry, _)| entry.address == listen.address)
            {
                let (_, listeners) = opened.swap_remove(at);
                let entry = self.accept(listen.clone(), listeners, &service);
                self.open.push(entry);
            }
        }
        Closing(before)
    }

    fn accept(
        &self,
        listen: Listen,
        listeners: Vec<Listener>,
        service: &impl Fn(&Listen, &Listener) -> Arc<S>,
    ) -> Accepting<S> {
        let closing = CancellationToken::new();
        let mut loops = self.tasks.set();
        let listeners: Vec<_> = listeners.into_iter().map(Arc::new).collect();
        let services: Vec<_> = listeners
            .iter()
            .map(|listener| Arc::new(ArcSwap::new(service(&listen, listener))))
            .collect();
        for (listener, service) in listeners.iter().zip(&services) {
            let acceptor = Acceptor::new(
                listener.clone(),
                service.clone(),
                self.admission.clone(),
                self.tasks.clone(),
            );
            loops.spawn(acceptor.run(closing.clone()));
        }
        Accepting {
            listen,
            listeners,
            services,
            loops,
            closing,
        }
    }

    /// Returns a second descriptor of each listener, for a process that takes over.
    pub(super) fn inheritable(&self) -> io::Result<Vec<Inherited>> {
        let entries = self.open.iter();
        entries
            .flat_map(|entry| {
                let bind = &entry.listen.address;
                let listeners = entry.listeners.iter();
                listeners.map(|listener| {
                    Ok(Inherited {
                        bind: bind.clone(),
                        file: listener.file_identity(),
                        descriptor: listener.descriptor()?,
                    })
                })
            })
            .collect()
    }

    /// Makes this process the owner of the listeners that another one has opened.
    pub(super) fn take_over(&self) {
        for entry in &self.open {
            let listeners = entry.listeners.iter();
            listeners.for_each(|one| one.take_over(&entry.listen));
        }
    }

    /// Stops accepting at once where another process, which has `taken` the listeners of these
    /// addresses, accepts already; the files of unix sockets are that process's. The other listeners
    /// are closed.
    pub(super) async fn hand_over(self, taken: &[Bind]) {
        let (taken, others): (Vec<_>, Vec<_>) = self
            .open
            .into_iter()
            .partition(|entry| taken.contains(&entry.listen.address));
        for entry in taken {
            entry.listeners.iter().for_each(|one| one.give_up_file());
            entry.abort().await;
        }
        Closing(others).finish().await;
    }

    /// Stops accepting.
    pub(super) fn close(self) -> Closing<S> {
        Closing(self.open)
    }
}

impl<S: Serve> Closing<S> {
    /// Returns the addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Bind> {
        self.0.iter().map(|entry| &entry.listen.address)
    }

    /// Accepts the connections that have arrived, then closes the listeners.
    pub(super) async fn finish(self) {
        for entry in &self.0 {
            entry.closing.cancel();
        }
        for entry in self.0 {
            entry.ended().await;
        }
    }
}

impl<S: Serve> Accepting<S> {
    /// Applies an entry's options to new connections.
    fn configure(&mut self, listen: &Listen, service: &impl Fn(&Listen, &Listener) -> Arc<S>) {
        for (listener, current) in self.listeners.iter().zip(&self.services) {
            if listen.backlog != self.listen.backlog
                && let Err(error) = listener.set_backlog(listen)
            {
                tracing::error!("cannot set the backlog of {}: {error}", listen.address);
            }
            current.store(service(listen, listener));
        }
        self.listen = listen.clone();
    }

    async fn abort(mut self) {
        self.loops.abort_all();
        self.ended().await;
    }

    async fn ended(mut self) {
        while self.loops.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests;
