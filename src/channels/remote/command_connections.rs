//! Commands: the connections that commands go through: one to each server.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::cluster;
use super::cluster::Slots;
use super::redis_stream;
use super::topology::{KeyMap, Topology};

/// How long to wait before commands are said again whose keys are on their way from one master to another.
const REDIRECT_PAUSE: Duration = Duration::from_millis(50);

/// How long they are waited for: all others wait too.
const REDIRECT_WAIT_MAX: Duration = Duration::from_millis(100);

/// Where a command goes.
enum Target {
    /// To who has its key.
    Owner,
    /// To who is about to have it.
    CommandLabel(usize),
}

/// What a connection needs to live.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connections that commands go through (cheap to clone).
#[derive(Clone)]
pub(super) struct CommandConnections(Arc<ConnectionsInner>);

struct ConnectionsInner {
    servers: Vec<MultiplexedConnection>,
    /// Where those of a cluster are.
    addresses: Vec<(String, u16)>,
    /// Which of them has what, as it was when the connections began, and as it is.
    first: KeyMap,
    now: Mutex<KeyMap>,
}

/// Tells whether a Redis that answers so is of no use now, but may be again.
pub(super) fn is_transient(error: &RedisError) -> bool {
    let passing = [
        "NOSCRIPT", // the next connection loads them again
        "READONLY",
        "LOADING",
        "MISCONF",
        "OOM",
        "NOREPLICAS",
        "BUSY",
        "MASTERDOWN",
        "CLUSTERDOWN",
    ];
    error.is_io_error() || error.code().is_some_and(|code| passing.contains(&code))
}

impl CommandConnections {
    /// Opens the connections; what is returned beside them has to run.
    pub(super) async fn connect(
        topology: &Topology,
        timeout: Duration,
    ) -> RedisResult<(Self, Vec<Driver>)> {
        let opened = topology
            .servers
            .iter()
            .map(|url| redis_stream::commands(url, timeout));
        let (servers, drivers) = try_join_all(opened).await?.into_iter().unzip();
        let inner = ConnectionsInner {
            servers,
            addresses: topology.addresses(),
            first: topology.map.clone(),
            now: Mutex::new(topology.map.clone()),
        };
        Ok((Self(Arc::new(inner)), drivers))
    }

    /// Returns which of the servers, in the order of the place, has a key or a channel.
    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        self.0.now.lock().server_of(key)
    }

    /// Says commands, those of each server in one pipeline. Returns what was answered to each, in their order.
    ///
    /// Commands about one key reach Redis in their order. Keys of a cluster that are on their way are followed, and waited for
    /// a while; then the answer is that they are.
    pub(super) async fn run(&self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        if let [server] = &self.0.servers[..] {
            return run_pipeline(server, commands).await;
        }
        let until = Instant::now() + REDIRECT_WAIT_MAX;
        let mut answers: Vec<Option<RedisResult<Value>>> = commands.iter().map(|_| None).collect();
        let mut left: Vec<(usize, Target)> =
            (0..commands.len()).map(|at| (at, Target::Owner)).collect();
        loop {
            self.run_some(&commands, &left, &mut answers).await?;
            left.clear();
            let mut is_waited_for = false;
            for (at, answer) in answers.iter().enumerate() {
                let Some(Err(error)) = answer else { continue };
                if is_redirect(error) {
                    let asked = self.ask_target(error);
                    is_waited_for |= asked.is_none();
                    left.push((at, asked.map_or(Target::Owner, Target::CommandLabel)));
                }
            }
            if left.is_empty() || Instant::now() >= until {
                let none = || Err(redis_stream::timed_out());
                let answers = answers.into_iter();
                return Ok(answers.map(|answer| answer.unwrap_or_else(none)).collect());
            }
            if is_waited_for {
                tokio::time::sleep(REDIRECT_PAUSE).await;
                self.refresh_slots().await?;
            }
        }
    }

    /// Says some of the commands, and puts what was answered to each in its place.
    async fn run_some(
        &self,
        commands: &[Cmd],
        some: &[(usize, Target)],
        answers: &mut [Option<RedisResult<Value>>],
    ) -> RedisResult<()> {
        let mut by_server: Vec<Vec<(usize, bool)>> = vec![Vec::new(); self.0.servers.len()];
        for (at, target) in some {
            let (server, is_asked) = match target {
                Target::Owner => (
                    key_of(&commands[*at]).map_or(0, |key| self.server_of(key)),
                    false,
                ),
                Target::CommandLabel(server) => (*server, true),
            };
            by_server[server].push((*at, is_asked));
        }
        let busy = || {
            by_server
                .iter()
                .enumerate()
                .filter(|(_, own)| !own.is_empty())
        };
        let answered = busy().map(|(server, own)| {
            let own = own.iter().flat_map(|(at, is_asked)| {
                let asking = is_asked.then(|| redis::cmd("ASKING"));
                asking.into_iter().chain([commands[*at].clone()])
            });
            run_pipeline(&self.0.servers[server], own.collect())
        });
        for ((_, own), answered) in busy().zip(join_all(answered).await) {
            let mut answered = answered?.into_iter();
            for (at, is_asked) in own {
                if *is_asked {
                    answered.next(); // the answer to ASKING
                }
                answers[*at] = answered.next();
            }
        }
        Ok(())
    }

    /// Returns the server that a cluster says is to be asked for a key that is on its way.
    fn ask_target(&self, error: &RedisError) -> Option<usize> {
        let is_ask = matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Ask));
        let (address, _) = error.redirect_node().filter(|_| is_ask)?;
        let (host, port) = address.rsplit_once(':')?;
        let is_it = |(known, at): &(String, u16)| known == host && port.parse() == Ok(*at);
        self.0.addresses.iter().position(is_it)
    }

    /// Says a command to each server; an error is that of any.
    pub(super) async fn run_everywhere(&self, commands: &[Cmd]) -> RedisResult<()> {
        for server in &self.0.servers {
            for answer in run_pipeline(server, commands.to_vec()).await? {
                answer?;
            }
        }
        Ok(())
    }

    /// Looks who has what in a cluster now. Returns that when it is not as it was when the connections began; the error is that of
    /// a cluster with another master.
    pub(super) async fn moved_slots(&self) -> RedisResult<Option<Slots>> {
        self.refresh_slots().await?;
        Ok(match (&*self.0.now.lock(), &self.0.first) {
            (KeyMap::Cluster(now), KeyMap::Cluster(first)) if now != first => Some(now.clone()),
            _ => None,
        })
    }

    /// Tells whether what a cluster has is somewhere else than when the connections began: then what subscribes and what publishes
    /// may be at different servers, and nobody can count.
    pub(super) fn is_resharding(&self) -> bool {
        matches!((&*self.0.now.lock(), &self.0.first), (KeyMap::Cluster(now), KeyMap::Cluster(first)) if now != first)
    }

    /// Returns which of the servers a channel is heard at: the same as long as the connections live.
    pub(super) fn subscription_server(&self, channel: &[u8]) -> usize {
        self.0.first.server_of(channel)
    }

    async fn refresh_slots(&self) -> RedisResult<()> {
        let inner = &self.0;
        let (KeyMap::Cluster(_), [server, ..], [(host, _), ..]) =
            (&inner.first, &inner.servers[..], &inner.addresses[..])
        else {
            return Ok(());
        };
        let mut answers = run_pipeline(server, vec![cluster::slots_command()])
            .await?
            .into_iter();
        let answer = answers
            .next()
            .unwrap_or_else(|| Err(redis_stream::timed_out()))?;
        let (addresses, slots) = cluster::parse_slots(answer, host)?;
        let slots = slots.reordered(&addresses, &inner.addresses)?;
        *inner.now.lock() = KeyMap::Cluster(slots);
        Ok(())
    }
}

/// Tells whether an answer is that a key is elsewhere, or on its way, or that what belongs before is not there.
pub(super) fn is_redirect(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain
        )
    )
}

async fn run_pipeline(
    server: &MultiplexedConnection,
    commands: Vec<Cmd>,
) -> RedisResult<Vec<RedisResult<Value>>> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for command in commands {
        pipeline.add_command(command);
    }
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    pipeline.query_async(&mut server.clone()).await
}

/// Returns the first key of a command, or the channel that it publishes in; none of those that concern no key.
fn key_of(command: &Cmd) -> Option<&[u8]> {
    let mut arguments = command.args_iter().map(|argument| match argument {
        Arg::Simple(argument) => argument,
        _ => b"",
    });
    match arguments.next()? {
        b"EVALSHA" => arguments.nth(2),
        _ => arguments.next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_goes_where_its_key_is() {
        let command = |parts: &[&str]| {
            let mut command = redis::cmd(parts[0]);
            command.arg(&parts[1..]);
            command
        };
        let key = |parts: &[&str]| key_of(&command(parts)).map(<[u8]>::to_vec);
        assert_eq!(
            key(&["EVALSHA", "ab12", "2", "k1", "k2", "x"]),
            Some(b"k1".to_vec())
        );
        assert_eq!(key(&["PUBLISH", "channel", "x"]), Some(b"channel".to_vec()));
        assert_eq!(key(&["HSET", "h", "f", "v"]), Some(b"h".to_vec()));
        assert_eq!(key(&["PING"]), None);
    }
}
