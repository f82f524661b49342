//! Descriptor passing: open descriptors that go to another process over a unix socket
//! (`SCM_RIGHTS`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Sends bytes with a descriptor. The receiver gets a descriptor of its own.
pub(crate) fn send_with_descriptor(
    stream: &UnixStream,
    bytes: &[u8],
    descriptor: impl AsFd,
) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg(stream, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
    if sent < bytes.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// Receives up to 4 KiB into `bytes`, and the descriptors sent with them, which programs started by
/// this process do not inherit. Returns the number of bytes; 0 at the end of the stream.
pub(crate) fn receive_with_descriptors(
    stream: &UnixStream,
    bytes: &mut Vec<u8>,
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut buffer = [0; 4096];
    // The kernel never joins the descriptors of two messages in one read.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let received = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    bytes.extend_from_slice(&buffer[..received.bytes]);
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_the_bytes_that_it_was_sent_with() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut first, mut passed) = UnixStream::pair().unwrap();
        let (_second, other) = UnixStream::pair().unwrap();
        send_with_descriptor(&ours, b"one\n", &passed).unwrap();
        send_with_descriptor(&ours, b"two\n", &other).unwrap();
        passed.write_all(b"x").unwrap();
        drop((passed, other, ours));
        let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
        while receive_with_descriptors(&theirs, &mut bytes, &mut descriptors).unwrap() > 0 {}
        assert_eq!(
            (bytes.as_slice(), descriptors.len()),
            (&b"one\ntwo\n"[..], 2)
        );
        let mut taken = UnixStream::from(descriptors.remove(0));
        taken.write_all(b"y").unwrap();
        drop(taken);
        let mut read = String::new();
        first.read_to_string(&mut read).unwrap();
        assert_eq!(read, "xy");
    }
}
