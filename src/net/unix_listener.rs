//! Unix listener: a listener on a unix socket, with the file's permissions and its removal.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::bind::Listen;

/// A socket's file, removed on drop by the process that owns it, unless another one has replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode. The inode is not reused before the socket is closed.
    identity: (u64, u64),
    is_owned: AtomicBool,
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
    let file = SocketFile::existing(path)?;
    file.take_over();
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    if let Some(mode) = mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    // Until this call, connections are refused.
    socket.listen(listen.backlog.into())?;
    Ok((UnixListener::from_std(socket.into())?, file))
}

/// Sets the permissions and the group of a socket's file. `None` leaves them as they are.
pub(super) fn set_access(path: &Path, mode: Option<u32>, group: Option<&str>) -> io::Result<()> {
    if let Some(group) = group {
        chown(path, None, Some(group_id(group)?))?;
    }
    if let Some(mode) = mode {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
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

impl SocketFile {
    /// Returns the file at a path, which another process owns.
    pub(super) fn existing(path: &Path) -> io::Result<Self> {
        let metadata = path.symlink_metadata()?;
        Ok(Self {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            is_owned: AtomicBool::new(false),
        })
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
            && self
                .path
                .symlink_metadata()
                .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if is_ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
