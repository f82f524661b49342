//! Admission: how many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::counter;

/// Counts connections against `server.limits`.
#[derive(Clone)]
pub(super) struct Admission(Arc<Inner>);

struct Inner {
    connections_max: usize,
    connections_per_ip_max: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// One connection that was let in; dropping it makes room for another.
pub(super) struct Admitted {
    admission: Admission,
    ip: Option<IpAddr>,
}

impl Admission {
    pub(super) fn new(connections_max: usize, connections_per_ip_max: usize) -> Self {
        Self(Arc::new(Inner {
            connections_max,
            connections_per_ip_max,
            open: Mutex::default(),
        }))
    }

    /// Lets a connection in, or says which limit is reached.
    pub(super) fn admit(&self, ip: Option<IpAddr>) -> Result<Admitted, &'static str> {
        let mut open = self.open();
        if open.all >= self.0.connections_max {
            return refuse("connections");
        }
        if let Some(ip) = ip {
            let of_ip = open.by_ip.entry(ip).or_default();
            if *of_ip >= self.0.connections_per_ip_max {
                return refuse("connections_per_ip");
            }
            *of_ip += 1;
        }
        open.all += 1;
        Ok(Admitted {
            admission: self.clone(),
            ip,
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(limit: &'static str) -> Result<Admitted, &'static str> {
    counter!("oneport_connections_refused_total", "reason" => limit).increment(1);
    Err(limit)
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.all -= 1;
        if let Some(ip) = self.ip
            && let Some(of_ip) = open.by_ip.get_mut(&ip)
        {
            *of_ip -= 1;
            if *of_ip == 0 {
                open.by_ip.remove(&ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_until_a_connection_is_dropped() {
        let admission = Admission::new(3, 2);
        let (here, there) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        let first = admission.admit(Some(here)).unwrap();
        let _second = admission.admit(Some(here)).unwrap();
        assert_eq!(
            admission.admit(Some(here)).err(),
            Some("connections_per_ip")
        );
        let _third = admission.admit(Some(there)).unwrap();
        assert_eq!(admission.admit(Some(there)).err(), Some("connections"));
        drop(first);
        assert!(admission.admit(Some(here)).is_ok());
        assert_eq!(admission.open().by_ip.len(), 2);
    }
}
