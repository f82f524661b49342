//! CommandConnections: the connections for commands, one to each server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::cluster;
use super::cluster::Slots;
use super::redis_stream::{self, Driver};
use super::topology::{KeyMap, Topology};

/// The pause before commands are sent again while their keys are moving from one master to another.
const REDIRECT_PAUSE: Duration = Duration::from_millis(50);

/// How long such commands are retried: all commands behind them wait too.
const REDIRECT_WAIT_MAX: Duration = Duration::from_millis(100);

/// The server that a command is sent to.
enum Target {
    /// The server that has its key.
    Owner,
    /// The server that is about to have it (ASK).
    Ask(usize),
}

/// The connections for commands (cheap to clone).
#[derive(Clone)]
pub(super) struct CommandConnections(Arc<ConnectionsInner>);

struct ConnectionsInner {
    servers: Vec<MultiplexedConnection>,
    /// Their addresses, in a cluster.
    addresses: Vec<(String, u16)>,
    /// The servers' keys: when the connections were opened, and now.
    first: KeyMap,
    now: Mutex<KeyMap>,
}

/// Returns whether an error concerns the server as a whole and is temporary. The process then
/// reconnects and sends the commands again.
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
    /// Opens the connections. They work only while the drivers are polled.
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

    /// Returns which server, in the order of the topology, has a key or a channel.
    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        self.0.now.lock().server_of(key)
    }

    /// Sends commands, those for each server in one pipeline. Returns the replies in the order of
    /// the commands.
    ///
    /// Commands about one key reach Redis in their order. Redirections of a cluster are followed
    /// for a limited time; after that, the reply is the redirection.
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
                    left.push((at, asked.map_or(Target::Owner, Target::Ask)));
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

    /// Sends some of the commands, and stores their replies.
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
                Target::Ask(server) => (*server, true),
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

    /// Returns the server that an ASK redirection names.
    fn ask_target(&self, error: &RedisError) -> Option<usize> {
        let is_ask = matches!(error.kind(), ErrorKind::Server(ServerErrorKind::Ask));
        let (address, _) = error.redirect_node().filter(|_| is_ask)?;
        let (host, port) = address.rsplit_once(':')?;
        let is_it = |(known, at): &(String, u16)| known == host && port.parse() == Ok(*at);
        self.0.addresses.iter().position(is_it)
    }

    /// Sends commands to every server; fails with the first error.
    pub(super) async fn run_everywhere(&self, commands: &[Cmd]) -> RedisResult<()> {
        for server in &self.0.servers {
            for answer in run_pipeline(server, commands.to_vec()).await? {
                answer?;
            }
        }
        Ok(())
    }

    /// Asks a cluster for its slots. Returns them if they differ from those at the time the
    /// connections were opened; fails if the cluster has another master.
    pub(super) async fn moved_slots(&self) -> RedisResult<Option<Slots>> {
        self.refresh_slots().await?;
        Ok(match (&*self.0.now.lock(), &self.0.first) {
            (KeyMap::Cluster(now), KeyMap::Cluster(first)) if now != first => Some(now.clone()),
            _ => None,
        })
    }

    /// Returns whether a cluster's slots differ from those at the time the connections were opened.
    /// Then a channel's subscribers and its publishers may be on different servers, and Redis'
    /// count of subscribers is too low.
    pub(super) fn is_resharding(&self) -> bool {
        matches!((&*self.0.now.lock(), &self.0.first), (KeyMap::Cluster(now), KeyMap::Cluster(first)) if now != first)
    }

    /// Returns the server on which a channel is subscribed to: the same one as long as the
    /// connections live.
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

/// Returns whether an error means that a key is on another master or moving, or that the event
/// before this one was not executed.
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

/// Returns the first key of a command, or the channel that it publishes to; `None` if it has
/// neither.
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
