//! Send file: sends a range of a file from the page cache to a socket, without a copy in the process.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::Interest;

use super::Stream;

impl Stream {
    /// Returns whether the kernel can send files to this stream: TCP and unix sockets.
    pub(crate) fn sends_files(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }

    /// Sends up to `count` bytes of a file, from an offset, for the owner. Returns 0 at the end of
    /// the file.
    ///
    /// Pages that are not in memory are read from the disk meanwhile, in this thread.
    pub(crate) fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: &File,
        from: u64,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => loop {
                let send = || send_file(stream, file, from, count);
                match stream.try_io(Interest::WRITABLE, send) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(stream.poll_write_ready(cx))?;
                    }
                    sent => return Poll::Ready(sent),
                }
            },
            Self::Unix(stream) => loop {
                let send = || send_file(stream, file, from, count);
                match stream.try_io(Interest::WRITABLE, send) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(stream.poll_write_ready(cx))?;
                    }
                    sent => return Poll::Ready(sent),
                }
            },
            _ => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// Writes slices that a file follows, for the owner. The kernel holds back an incomplete
    /// segment until the file's first bytes fill it.
    pub(crate) fn poll_write_before_file(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self::Tcp(stream) = self else {
            return self.poll_write_shared(cx, slices);
        };
        loop {
            let send = || SockRef::from(stream).send_vectored_with_flags(slices, libc::MSG_MORE);
            match stream.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_write_ready(cx))?;
                }
                written => return Poll::Ready(written),
            }
        }
    }
}

fn send_file(to: impl AsFd, file: &File, from: u64, count: usize) -> io::Result<usize> {
    let mut offset = from;
    loop {
        match rustix::fs::sendfile(&to, file, Some(&mut offset), count) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}
