//! OldProcess: the process whose listeners this one takes over, as the new one sees it.

use std::env;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc::Sender;

use super::MARK;
use super::channel::{Channel, FromNew, FromOld, MESSAGE_BYTES_MAX, encode};
use crate::net::{Bind, FileIdentity, receive_with_descriptors};
use crate::server::listeners::Inherited;
use crate::server::signals::Signal;
use crate::services::Services;

/// How long the listeners may take to arrive, which were sent before this process was started.
const RECEIVE_DEADLINE: Duration = Duration::from_secs(5);

/// How long the old process may take to stop accepting. A process that stands still for longer
/// accepts until it goes on.
const GO_DEADLINE: Duration = Duration::from_secs(10);

/// The old process, until this one has taken over.
#[derive(Debug)]
pub struct OldProcess {
    stream: UnixStream,
    listeners: Vec<Inherited>,
    /// What has arrived behind the listeners: messages.
    received: Vec<u8>,
    pid: u32,
}

/// The old process's decision about a new one that is ready.
pub(in crate::server) enum Decision {
    /// The new process is the server.
    Go {
        /// Whether to reload the configuration.
        reload: bool,
    },
    /// Both stop.
    Stop,
}

/// The old process while it drains.
#[derive(Debug)]
pub(in crate::server) struct Draining(Option<Channel>);

impl OldProcess {
    /// Returns the old process, if one has started this process to take over. Its listeners are
    /// received, and standard input becomes `/dev/null`. Call it once, before anything else.
    pub fn take() -> io::Result<Option<Self>> {
        if env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        if stream.peer_addr().is_err() {
            return Ok(None); // inherited from elsewhere: standard input is another thing
        }
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        stream.set_read_timeout(Some(RECEIVE_DEADLINE))?;
        stream.set_write_timeout(Some(RECEIVE_DEADLINE))?;
        let (listeners, received) = receive_listeners(&stream)?;
        Ok(Some(Self {
            listeners,
            received,
            pid: creator(&stream).unwrap_or_else(parent_id),
            stream,
        }))
    }

    /// Reports why this process does not start; the old one logs it and serves on. Returns whether
    /// the report was sent.
    pub fn report_failure(&self, problems: impl IntoIterator<Item = impl Display>) -> bool {
        let mut size = 0;
        let problems = problems.into_iter().map(|problem| problem.to_string());
        let problems = problems
            .take_while(|problem| {
                size += 2 * problem.len() + 16; // escaped
                size < MESSAGE_BYTES_MAX / 2
            })
            .collect();
        let line = encode(&FromNew::Failed { problems });
        line.and_then(|line| (&self.stream).write_all(&line))
            .is_ok()
    }

    /// Takes the listeners, each with the address of its entry.
    pub(in crate::server) fn take_listeners(&mut self) -> Vec<Inherited> {
        std::mem::take(&mut self.listeners)
    }

    pub(in crate::server) fn pid(&self) -> u32 {
        self.pid
    }

    /// Reports that this process accepts connections, and at which of the old one's listeners;
    /// waits until the old one accepts no more. If that has died, this process is the server.
    pub(in crate::server) async fn ready(
        self,
        listeners: &[Bind],
        pid_file: Option<&Path>,
        services: &Services,
    ) -> (Decision, Draining) {
        let Ok(mut channel) = Channel::behind(self.received, self.stream) else {
            return (Decision::Go { reload: false }, Draining(None));
        };
        let ready = FromNew::Ready {
            pid: std::process::id(),
            listeners: listeners.iter().map(ToString::to_string).collect(),
            pid_file: pid_file.map(Path::to_owned),
        };
        let deciding = async {
            // An old process that has closed its end may have said before that both stop.
            let _ = channel.send(&ready).await;
            loop {
                match channel.receive::<FromOld>().await {
                    Ok(Some(FromOld::Tickets(tickets))) => {
                        services.settings().auth.add_tickets(tickets);
                    }
                    decision => return decision,
                }
            }
        };
        let warned = |sentence| {
            tracing::warn!(old = self.pid, "the old process {sentence}");
            Decision::Go { reload: false }
        };
        let decision = match tokio::time::timeout(GO_DEADLINE, deciding).await {
            Ok(Ok(Some(FromOld::Go { reload }))) => Decision::Go { reload },
            Ok(Ok(Some(FromOld::Stop))) => Decision::Stop,
            Ok(Ok(Some(FromOld::Tickets(_) | FromOld::Reload))) => warned("sent no valid decision"),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                warned("sent no valid decision")
            }
            Ok(Ok(None) | Err(_)) => return (warned("has died"), Draining(None)),
            Err(_) => warned("does not answer"),
        };
        (decision, Draining(Some(channel)))
    }
}

impl Draining {
    /// Returns whether it had ended when this process took over.
    pub(in crate::server) fn has_ended(&self) -> bool {
        self.0.is_none()
    }

    /// Takes over its tickets and the signals that it passes on; returns when the old process has
    /// ended.
    pub(in crate::server) async fn ended(self, services: &Services, signals: &Sender<Signal>) {
        let Some(mut channel) = self.0 else { return };
        loop {
            match channel.receive::<FromOld>().await {
                Ok(Some(FromOld::Tickets(tickets))) => {
                    services.settings().auth.add_tickets(tickets);
                }
                // One that finds no room follows others that nothing has handled yet.
                Ok(Some(FromOld::Reload | FromOld::Go { reload: true })) => {
                    let _ = signals.try_send(Signal::Reload);
                }
                // It has answered late: this process serves, and ends with it all the same.
                Ok(Some(FromOld::Stop)) => drop(signals.try_send(Signal::StopWithOld)),
                Ok(Some(FromOld::Go { reload: false })) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!("the old process sent no valid message: {error}");
                }
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// Returns the process that has made a socket pair: with a wrapper around this program it is not
/// the parent process.
#[cfg(target_os = "linux")]
fn creator(stream: &UnixStream) -> Option<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(stream).ok()?;
    credentials.pid.as_raw_nonzero().get().try_into().ok()
}

#[cfg(not(target_os = "linux"))]
fn creator(_: &UnixStream) -> Option<u32> {
    None
}

/// Reads a line for each listener, with its descriptor, and an empty one at the end. Returns also
/// the bytes behind it that have arrived.
fn receive_listeners(stream: &UnixStream) -> io::Result<(Vec<Inherited>, Vec<u8>)> {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    let end = loop {
        if let Some(end) = end_of_list(&bytes) {
            break end;
        }
        if receive_with_descriptors(stream, &mut bytes, &mut descriptors)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(invalid("the old process sent too much".to_owned()));
        }
    };
    let received = bytes.split_off(end);
    Ok((pair(&bytes, descriptors)?, received))
}

/// Returns the end of the first empty line.
fn end_of_list(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"\n") {
        return Some(1);
    }
    let at = bytes.windows(2).position(|pair| pair == b"\n\n");
    at.map(|at| at + 2)
}

fn pair(bytes: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<Vec<Inherited>> {
    let lines = bytes.split(|byte| *byte == b'\n');
    let entries: Vec<(Bind, Option<FileIdentity>)> = lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (text, file): (String, _) = serde_json::from_slice(line)?;
            let bind = text.parse().map_err(|error| invalid(format!("{error}")))?;
            Ok((bind, file))
        })
        .collect::<io::Result<_>>()?;
    if entries.len() != descriptors.len() {
        return Err(invalid(format!(
            "expected {} listeners of the old process, found {}",
            entries.len(),
            descriptors.len()
        )));
    }
    let listeners = entries.into_iter().zip(descriptors);
    Ok(listeners
        .map(|((bind, file), descriptor)| Inherited {
            bind,
            file,
            descriptor,
        })
        .collect())
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::send_with_descriptor;

    #[test]
    fn listeners_arrive_with_their_addresses() {
        let (old, new) = UnixStream::pair().unwrap();
        let sent = [("[::1]:8000", None), ("unix:/run/a b.sock", Some((1, 2)))];
        for entry in &sent {
            let line = encode(entry).unwrap();
            send_with_descriptor(&old, &line, &old).unwrap();
        }
        (&old).write_all(b"\n").unwrap();
        let (received, rest) = receive_listeners(&new).unwrap();
        assert!(rest.is_empty());
        let found = received.iter().map(|one| (one.bind.to_string(), one.file));
        let sent = sent.map(|(bind, file)| (bind.to_owned(), file));
        assert_eq!(found.collect::<Vec<_>>(), sent);
    }

    #[test]
    fn a_server_without_listeners_sends_the_end_alone() {
        let (old, new) = UnixStream::pair().unwrap();
        (&old).write_all(b"\n").unwrap();
        assert!(receive_listeners(&new).unwrap().0.is_empty());
    }

    #[tokio::test]
    async fn a_message_that_is_there_before_the_list_is_read_arrives_behind_it() {
        for count in [0, 2] {
            let (old, new) = UnixStream::pair().unwrap();
            for _ in 0..count {
                let line = encode(&("[::1]:80", None::<FileIdentity>)).unwrap();
                send_with_descriptor(&old, &line, &old).unwrap();
            }
            (&old).write_all(b"\n").unwrap();
            (&old).write_all(&encode(&FromOld::Stop).unwrap()).unwrap();
            let (listeners, received) = receive_listeners(&new).unwrap();
            assert_eq!(listeners.len(), count);
            let mut channel = Channel::behind(received, new).unwrap();
            assert_eq!(channel.receive().await.unwrap(), Some(FromOld::Stop));
        }
    }

    #[test]
    fn what_is_cut_off_or_wrong_is_an_error() {
        let wrong = |sent: &[u8]| {
            let (old, new) = UnixStream::pair().unwrap();
            (&old).write_all(sent).unwrap();
            drop(old);
            receive_listeners(&new).unwrap_err().kind()
        };
        assert_eq!(wrong(b""), io::ErrorKind::UnexpectedEof);
        assert_eq!(
            wrong(b"[\"[::1]:80\",null]\n"),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(
            wrong(b"[\"[::1]:80\",null]\n\n"),
            io::ErrorKind::InvalidData
        ); // no descriptor
        assert_eq!(wrong(b"[\"80\",null]\n\n"), io::ErrorKind::InvalidData);
        assert_eq!(
            wrong(b"GET / HTTP/1.1\r\n\r\n\n\n"),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_failure_reaches_the_old_process_whole_or_cut_to_size() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for count in [2, 10_000] {
            let (old, stream) = UnixStream::pair().unwrap();
            let new = OldProcess {
                stream,
                listeners: Vec::new(),
                received: Vec::new(),
                pid: 1,
            };
            let problem = "oneport.toml:1:1: \"quoted\" ".repeat(4);
            let reporting =
                std::thread::spawn(move || new.report_failure(std::iter::repeat_n(problem, count)));
            let received = runtime.block_on(async {
                let mut channel = Channel::new(old).unwrap();
                channel.receive::<FromNew>().await.unwrap()
            });
            assert!(reporting.join().unwrap());
            let Some(FromNew::Failed { problems }) = received else {
                panic!("{received:?}");
            };
            assert!(
                problems.len() == count || problems.len() > 100,
                "{}",
                problems.len()
            );
        }
    }
}
