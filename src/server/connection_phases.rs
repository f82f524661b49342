//! Connection phases: which connections speak HTTP, and in which phase each is, for the metrics.
//!
//! A connection is listed once and leaves the list with its end or its upgrade. Its phase is not
//! counted but read, from the instants that its deadlines are derived from: a request changes
//! nothing in this list.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::connection_timeouts::ConnectionTimeouts;
use crate::services::Services;
use crate::telemetry::Snapshot;

/// The number of locks, so that connections of several workers seldom wait for one.
const SHARDS: usize = 16;

/// The room in a shard that is kept however few its connections are.
const KEPT_CAPACITY: usize = 64;

/// All phases, by their words.
const PHASES: [&str; 6] = ["handshake", "head", "body", "response", "idle", "closing"];

/// The connections of all listeners.
#[derive(Default)]
pub(super) struct ConnectionPhases([Mutex<HashMap<usize, Arc<ConnectionTimeouts>>>; SHARDS]);

/// A connection that is listed.
pub(super) struct Listed {
    phases: Arc<ConnectionPhases>,
    key: usize,
}

impl ConnectionPhases {
    /// Returns the list of a server. The first call adds it to what a reading of the metrics reads.
    pub(super) fn of(services: &Services) -> Arc<Self> {
        let phases = services.shared::<Self>();
        let read = phases.clone();
        let read = Box::new(move |snapshot: &mut Snapshot| read.add_to(snapshot));
        let _ = services.connection_readings.set(read);
        phases
    }

    /// Lists a connection.
    pub(super) fn list(self: &Arc<Self>, timeouts: &Arc<ConnectionTimeouts>) -> Listed {
        let key = Arc::as_ptr(timeouts).addr();
        self.shard(key).lock().insert(key, timeouts.clone());
        Listed {
            phases: self.clone(),
            key,
        }
    }

    fn shard(&self, key: usize) -> &Mutex<HashMap<usize, Arc<ConnectionTimeouts>>> {
        // Allocations differ in these bits.
        &self.0[(key >> 8) % SHARDS]
    }

    fn add_to(&self, snapshot: &mut Snapshot) {
        let mut counts = PHASES.map(|phase| (phase, 0_u64));
        let mut streams = 0;
        for shard in &self.0 {
            for connection in shard.lock().values() {
                let word = connection.phase_word();
                for (_, count) in counts.iter_mut().filter(|(phase, _)| *phase == word) {
                    *count += 1;
                }
                streams += u64::from(connection.streams());
            }
        }
        for (phase, count) in counts {
            snapshot.add(
                "oneport_connection_phases",
                &[("phase", phase)],
                count as f64,
            );
        }
        snapshot.add("oneport_http2_streams", &[], streams as f64);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut shard = self.phases.shard(self.key).lock();
        let removed = shard.remove(&self.key);
        // After a peak the list gives its memory back.
        let few = shard.len() < shard.capacity() / 8;
        if few && shard.capacity() > KEPT_CAPACITY {
            let kept = KEPT_CAPACITY.max(2 * shard.len());
            shard.shrink_to(kept);
        }
        drop(shard);
        drop(removed); // perhaps the last reference
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::ServerConfig;

    #[test]
    fn list_gives_the_memory_of_a_peak_back() {
        let phases = Arc::new(ConnectionPhases::default());
        let list = || {
            let timeouts = ConnectionTimeouts::new(Clock::default(), &ServerConfig::default());
            phases.list(&timeouts)
        };
        let capacity = || -> usize { phases.0.iter().map(|shard| shard.lock().capacity()).sum() };
        let kept: Vec<Listed> = (0..100).map(|_| list()).collect();
        let peak: Vec<Listed> = (0..20_000).map(|_| list()).collect();
        assert!(capacity() >= 20_100);
        drop(peak);
        // A shard that is kept small has room for twice as much as a table rounds up to.
        assert!(
            capacity() <= 2 * 2 * KEPT_CAPACITY * SHARDS,
            "{}",
            capacity()
        );
        let left: usize = phases.0.iter().map(|shard| shard.lock().len()).sum();
        assert_eq!(left, 100);
        drop(kept);
        assert!(phases.0.iter().all(|shard| shard.lock().is_empty()));
    }
}
