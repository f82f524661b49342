//! Commands: the connections that commands go through: one to each server.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, RedisError, RedisResult, ServerErrorKind, Value};

use super::place::{Map, Place};
use super::stream;
use super::{cluster, lock};

/// How long to wait before commands are said again whose keys are on their way from one master to another.
const PAUSE: Duration = Duration::from_millis(50);

/// What a connection needs to live.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connections that commands go through (cheap to clone).
#[derive(Clone)]
pub(super) struct Commands(Arc<Inner>);

struct Inner {
    servers: Vec<MultiplexedConnection>,
    /// Where those of a cluster are.
    addresses: Vec<(String, u16)>,
    /// Which of them has what, as it was when the connections began, and as it is.
    first: Map,
    now: Mutex<Map>,
}

/// Tells whether a Redis that answers so is of no use now, but may be again.
pub(super) fn is_passing(error: &RedisError) -> bool {
    let passing = [
        "NOSCRIPT", // the next connection loads them again
        "READONLY",
        "LOADING",
        "MISCONF",
        "OOM",
        "NOREPLICAS",
        "BUSY",
        "MASTERDOWN",
        "MOVED",
        "ASK",
        "TRYAGAIN",
        "CLUSTERDOWN",
    ];
    error.is_io_error() || error.code().is_some_and(|code| passing.contains(&code))
}

impl Commands {
    /// Opens the connections; what is returned beside them has to run.
    pub(super) async fn connect(
        place: &Place,
        timeout: Duration,
    ) -> RedisResult<(Self, Vec<Driver>)> {
        let opened = place
            .servers
            .iter()
            .map(|url| stream::commands(url, timeout));
        let (servers, drivers) = try_join_all(opened).await?.into_iter().unzip();
        let inner = Inner {
            servers,
            addresses: place.addresses(),
            first: place.map.clone(),
            now: Mutex::new(place.map.clone()),
        };
        Ok((Self(Arc::new(inner)), drivers))
    }

    /// Returns which of the servers, in the order of the place, has a key or a channel.
    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        lock(&self.0.now).server_of(key)
    }

    /// Says commands, those of each server in one pipeline. Returns what was answered to each, in their order.
    ///
    /// Commands about one key reach Redis in their order. Keys of a cluster that are on their way are waited for, without an end:
    /// the caller has the deadline.
    pub(super) async fn run(&self, commands: Vec<Cmd>) -> RedisResult<Vec<RedisResult<Value>>> {
        if let [server] = &self.0.servers[..] {
            return say(server, commands).await;
        }
        let mut answers: Vec<Option<RedisResult<Value>>> = commands.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..commands.len()).collect();
        loop {
            let mut by_server: Vec<Vec<usize>> = vec![Vec::new(); self.0.servers.len()];
            for at in left.drain(..) {
                let server = key_of(&commands[at]).map_or(0, |key| self.server_of(key));
                by_server[server].push(at);
            }
            let said = by_server
                .iter()
                .enumerate()
                .filter(|(_, own)| !own.is_empty());
            let said = said.map(|(server, own)| {
                let own = own.iter().map(|at| commands[*at].clone()).collect();
                say(&self.0.servers[server], own)
            });
            let mut said = join_all(said).await.into_iter();
            for own in by_server.iter().filter(|own| !own.is_empty()) {
                for (at, answer) in own.iter().zip(said.next().into_iter().flatten().flatten()) {
                    answers[*at] = Some(answer);
                }
            }
            for (at, answer) in answers.iter().enumerate() {
                match answer {
                    None => return Err(stream::timed_out()), // its server did not answer
                    Some(Err(error)) if is_elsewhere(error) => left.push(at),
                    Some(_) => {}
                }
            }
            if left.is_empty() {
                return Ok(answers.into_iter().flatten().collect());
            }
            tokio::time::sleep(PAUSE).await;
            self.look_again().await?;
        }
    }

    /// Says a command to each server; an error is that of any.
    pub(super) async fn run_everywhere(&self, commands: &[Cmd]) -> RedisResult<()> {
        for server in &self.0.servers {
            for answer in say(server, commands.to_vec()).await? {
                answer?;
            }
        }
        Ok(())
    }

    /// Sees whether the servers of a cluster still have what they had. Returns whether any of it is elsewhere than when the
    /// connections began; the error is that of a cluster with another master.
    pub(super) async fn has_moved(&self) -> RedisResult<bool> {
        self.look_again().await?;
        Ok(match (&*lock(&self.0.now), &self.0.first) {
            (Map::Cluster(now), Map::Cluster(first)) => now != first,
            _ => false,
        })
    }

    async fn look_again(&self) -> RedisResult<()> {
        let inner = &self.0;
        let (Map::Cluster(_), [server, ..], [(host, _), ..]) =
            (&inner.first, &inner.servers[..], &inner.addresses[..])
        else {
            return Ok(());
        };
        let mut answers = say(server, vec![cluster::question()]).await?.into_iter();
        let answer = answers.next().unwrap_or_else(|| Err(stream::timed_out()))?;
        let (addresses, slots) = cluster::read(answer, host)?;
        let slots = slots.reordered(&addresses, &inner.addresses)?;
        *lock(&inner.now) = Map::Cluster(slots);
        Ok(())
    }
}

/// Tells whether a cluster's answer is that a key is elsewhere, or on its way.
fn is_elsewhere(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        redis::ErrorKind::Server(
            ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain
        )
    )
}

async fn say(
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
