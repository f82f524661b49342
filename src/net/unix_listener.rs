//! Unix listener: a listener on a unix socket, with the file's permissions and its removal.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::bind::Listen;
use super::socket_access::SocketAccess;

/// Device and inode of a file.
pub(crate) type FileIdentity = (u64, u64);

/// A socket's file, removed on drop by the process that owns it, unless another one has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// The inode is not reused before the socket is closed.
    identity: FileIdentity,
    is_owned: AtomicBool,
}

/// Changed permissions of a socket's file. Dropping it restores those before.
#[derive(Debug)]
#[must_use = "dropping it restores the permissions"]
pub(crate) struct AccessChange {
    path: PathBuf,
    file: SocketAccess,
    mode: u32,
    group: u32,
    is_kept: bool,
}

impl AccessChange {
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for AccessChange {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let restored = self.file.set(Some(self.group), Some(self.mode));
        if let Err(error) = restored {
            let path = self.path.display();
            tracing::error!("cannot restore the permissions of {path}: {error}");
        }
    }
}

/// Listens on a path. Replaces a socket file that no process listens on, and no other file.
///
/// `mode` and `group` are set before the first connection is accepted.
pub(super) fn open(path: &Path, listen: &Listen) -> io::Result<(UnixListener, SocketFile)> {
    let (mode, group) = (listen.mode, listen.group.as_deref());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let group = group.map(group_id).transpose()?;
    let address = SockAddr::unix(path)?;
    if path
        .symlink_metadata()
        .is_ok_and(|found| found.file_type().is_socket())
    {
        if is_listened_at(&address)? {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process listens on it",
            ));
        }
        std::fs::remove_file(path)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // `bind` creates the file with the permissions of the socket: only the owner's bits, until the
    // group is set.
    if let Some(mode) = mode {
        let descriptor = File::from(socket.as_fd().try_clone_to_owned()?);
        descriptor.set_permissions(Permissions::from_mode(mode & 0o700))?;
    }
    socket.bind(&address)?;
    let access = SocketAccess::open(path)?;
    let file = SocketFile::new(path, access.identity());
    file.take_over();
    access.set(group, mode)?;
    // Until this call, connections are refused.
    socket.listen(listen.backlog.into())?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Returns whether a process listens on a socket. Never waits: `EAGAIN` means that the queue of the
/// listening process is full.
fn is_listened_at(address: &SockAddr) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(address) {
        Ok(()) => Ok(true),
        Err(error) => Ok(!matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        )),
    }
}

/// Returns the id of a group, given by name or number.
fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    match Group::from_name(group)? {
        Some(found) => Ok(found.gid.as_raw()),
        None => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no such group: {group:?}"),
        )),
    }
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

impl SocketFile {
    /// Returns the file of an inherited socket, which another process owns; `None` if it is gone, or
    /// another program's socket has taken its place.
    pub(super) fn inherited(path: &Path, wanted: FileIdentity) -> Option<Self> {
        let is_there = identity(path).is_ok_and(|found| found == wanted);
        is_there.then(|| Self::new(path, wanted))
    }

    fn new(path: &Path, identity: FileIdentity) -> Self {
        Self {
            path: path.to_owned(),
            identity,
            is_owned: AtomicBool::new(false),
        }
    }

    pub(super) fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Sets the permissions and the group as an entry says; what it does not say stays. Returns `None`
    /// if there is nothing to change, also if another file has taken the place of this one.
    pub(super) fn set_access(&self, listen: &Listen) -> io::Result<Option<AccessChange>> {
        let group = listen.group.as_deref().map(group_id).transpose()?;
        if group.is_none() && listen.mode.is_none() {
            return Ok(None);
        }
        let file = match SocketAccess::open(&self.path) {
            Ok(file) if file.identity() == self.identity => file,
            _ => return Ok(None),
        };
        // Restores them if one cannot be set.
        let change = AccessChange {
            path: self.path.clone(),
            mode: file.mode(),
            group: file.group(),
            file,
            is_kept: false,
        };
        change.file.set(group, listen.mode)?;
        Ok(Some(change))
    }

    /// Makes this process the owner.
    pub(super) fn take_over(&self) {
        self.is_owned.store(true, Ordering::Relaxed);
    }

    /// Leaves the file to another process.
    pub(super) fn give_up(&self) {
        self.is_owned.store(false, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = *self.is_owned.get_mut()
            && identity(&self.path).is_ok_and(|found| found == self.identity);
        if is_ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
