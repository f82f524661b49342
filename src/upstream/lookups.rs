//! Lookups: the names of the servers of an upstream, looked up again and again.
//!
//! Each address of a name is a server of its own, as in nginx: requests are shared among the
//! replicas of a service, and one of them can be out. A name with only one address, or only with
//! addresses of this machine (`localhost`), is one server, whose name is looked up for each
//! connection.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use metrics::counter;

use super::server_url::ServerUrl;
use super::set::{Runtime, Set};

/// How long a look-up may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// The most servers of one name.
const ADDRESSES_MAX: usize = 64;

/// Starts the task of a set that looks its names up, if it has any.
pub(super) fn start(set: &Arc<Set>, runtime: &Runtime) {
    let is_off = set.options.resolve_interval.0.is_zero();
    if is_off || set.urls.iter().all(|url| url.name().is_none()) {
        return;
    }
    let dropped = set.dropped.clone();
    let (set, runtime) = (Arc::downgrade(set), runtime.clone());
    let tasks = runtime.tasks.clone();
    tasks.clone().spawn("upstream look-ups", async move {
        tokio::select! {
            () = run(&set, &runtime) => {}
            () = dropped.cancelled() => {}
            () = tasks.stopping() => {}
        }
    });
}

async fn run(set: &Weak<Set>, runtime: &Runtime) {
    let mut known: HashMap<Arc<str>, Vec<IpAddr>> = HashMap::new();
    let mut failing: HashMap<Arc<str>, bool> = HashMap::new();
    loop {
        let Some(set) = set.upgrade() else { return };
        for url in &set.urls {
            let Some((name, port)) = url.name() else {
                continue;
            };
            let found = look_up(name, port).await;
            count(url, found.is_ok());
            let was_failing = failing.insert(url.text.clone(), found.is_err());
            match found {
                Ok(addresses) => {
                    let before = known.insert(url.text.clone(), addresses.clone());
                    update(&set, url, before.as_deref(), &addresses, runtime);
                }
                // The last addresses stay.
                Err(error) if was_failing != Some(true) => {
                    tracing::warn!(upstream = &*url.text, %error, "upstream name cannot be looked up");
                }
                Err(_) => {}
            }
        }
        let pause = set
            .options
            .resolve_interval
            .0
            .mul_f64(0.9 + 0.2 * fastrand::f64());
        drop(set);
        tokio::time::sleep(pause).await;
    }
}

/// Applies the result of a look-up.
pub(super) fn update(
    set: &Set,
    url: &ServerUrl,
    before: Option<&[IpAddr]>,
    addresses: &[IpAddr],
    runtime: &Runtime,
) {
    if before == Some(addresses) {
        return;
    }
    let servers = servers_of(addresses);
    if before.map(servers_of).unwrap_or_default() != servers {
        tracing::info!(upstream = &*url.text, ?addresses, "upstream addresses");
        set.set_addresses(url, servers, runtime);
    } else if before.is_some() {
        tracing::info!(upstream = &*url.text, ?addresses, "upstream addresses");
        set.retire_connections(url);
    }
}

fn count(url: &ServerUrl, is_ok: bool) {
    let outcome = if is_ok { "ok" } else { "failed" };
    let upstream = url.text.to_string();
    counter!("oneport_upstream_lookups_total", "upstream" => upstream, "outcome" => outcome)
        .increment(1);
}

async fn look_up(name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    let found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    // In an order that does not change.
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    match addresses.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )),
        false => Ok(addresses),
    }
}

/// Returns the addresses that are servers of their own; none if the name is one server.
fn servers_of(addresses: &[IpAddr]) -> &[IpAddr] {
    if addresses.len() == 1 || addresses.iter().all(IpAddr::is_loopback) {
        return &[];
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_a_server_unless_all_are_of_this_machine() {
        let check = |addresses: &[&str], expected: &[&str]| {
            let parse = |all: &[&str]| -> Vec<IpAddr> {
                all.iter().map(|one| one.parse().unwrap()).collect()
            };
            assert_eq!(
                servers_of(&parse(addresses)),
                parse(expected),
                "{addresses:?}"
            );
        };
        check(&["127.0.0.1", "::1"], &[]);
        check(&["10.0.0.1"], &[]);
        check(&["10.0.0.1", "10.0.0.2"], &["10.0.0.1", "10.0.0.2"]);
        check(&["10.0.0.1", "127.0.0.1"], &["10.0.0.1", "127.0.0.1"]);
    }

    #[tokio::test]
    async fn a_name_without_an_address_is_an_error() {
        assert!(look_up("localhost", 80).await.is_ok());
        assert!(look_up("no such name", 80).await.is_err());
    }
}
