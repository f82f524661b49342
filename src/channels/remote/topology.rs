//! Topology: the servers of the layer, and the keys of each.

use std::time::Duration;

use redis::{RedisError, RedisResult};

use super::cluster::{self, Slots};
use super::hash_ring::HashRing;
use super::redis_stream::{self, timed_out, timeout_share};
use crate::config::{RedisHome, RedisUrl};

/// The current servers of the layer.
pub(super) struct Topology {
    pub(super) servers: Vec<RedisUrl>,
    pub(super) map: KeyMap,
}

/// Maps keys and channels to servers.
#[derive(Clone)]
pub(super) enum KeyMap {
    Single,
    HashRing(HashRing),
    Cluster(Slots),
}

impl KeyMap {
    /// Returns the number of the server that has a key or a channel.
    pub(super) fn server_of(&self, key: &[u8]) -> usize {
        match self {
            Self::Single => 0,
            Self::HashRing(ring) => ring.server_of(key),
            Self::Cluster(slots) => slots.server_of(key).unwrap_or(0), // every server redirects
        }
    }
}

impl Topology {
    /// Finds the servers. `core`: the prefix of the names of `channels_redis.core`; `None` in other
    /// formats. `masters`: the cluster's earlier masters, in case those in the URL are gone.
    pub(super) async fn find(
        urls: &[RedisUrl],
        core: Option<&str>,
        masters: &[(String, u16)],
        timeout: Duration,
    ) -> RedisResult<Self> {
        match urls {
            [url] => match &url.home {
                RedisHome::Cluster { hosts, tls } => {
                    let asked: Vec<_> = hosts.iter().chain(masters).collect();
                    find_cluster(url, &asked, *tls, timeout).await
                }
                _ => Ok(Self {
                    servers: vec![url.clone()],
                    map: KeyMap::Single,
                }),
            },
            urls => Ok(Self {
                servers: urls.to_vec(),
                map: KeyMap::HashRing(HashRing::new(urls.len(), core)),
            }),
        }
    }

    /// Returns the addresses of the servers of a cluster.
    pub(super) fn addresses(&self) -> Vec<(String, u16)> {
        let address = |url: &RedisUrl| match &url.home {
            RedisHome::Tcp { host, port, .. } => Some((host.clone(), *port)),
            _ => None,
        };
        self.servers.iter().filter_map(address).collect()
    }
}

async fn find_cluster(
    url: &RedisUrl,
    asked: &[&(String, u16)],
    tls: bool,
    timeout: Duration,
) -> RedisResult<Topology> {
    let at = |host: &str, port: u16| {
        let host = host.to_owned();
        RedisUrl {
            home: RedisHome::Tcp { host, port, tls },
            ..url.clone()
        }
    };
    let share = timeout_share(timeout, asked.len());
    let mut last = None;
    for (host, port) in asked {
        let answer = tokio::time::timeout(share, query_slots(&at(host, *port))).await;
        let answer = answer.unwrap_or_else(|_| Err(timed_out()));
        match answer.and_then(|answer| cluster::parse_slots(answer, host)) {
            Ok((masters, slots)) => {
                let servers = masters.iter().map(|(host, port)| at(host, *port));
                return Ok(Topology {
                    servers: servers.collect(),
                    map: KeyMap::Cluster(slots),
                });
            }
            Err(error) => last = Some(error),
        }
    }
    Err::<Topology, RedisError>(last.unwrap_or_else(timed_out))
}

/// Asks a server of a cluster for the slots, over a separate connection.
async fn query_slots(url: &RedisUrl) -> RedisResult<redis::Value> {
    let (mut connection, driver) = redis_stream::commands(url, Duration::MAX).await?;
    let question = cluster::slots_command();
    tokio::select! {
        answer = question.query_async(&mut connection) => answer,
        () = driver => Err(timed_out()),
    }
}
