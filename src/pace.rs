//! Pace: how fast many clients are sent away, so that they come back one after another.

use std::time::Duration;

use tokio::time::Instant;

/// How fast many WebSockets or event streams are ended: in batches, with a pause between them.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// use std::time::Duration;
/// use oneport::pace::Pace;
///
/// let pace = Pace {
///     batch: 2,
///     every: Duration::from_millis(100),
///     ..Pace::AT_ONCE
/// };
/// let began = tokio::time::Instant::now();
/// let mut ended = Vec::new();
/// pace.walk(&['a', 'b', 'c'], |_, which| ended.push(*which)).await;
/// assert_eq!(ended, ['a', 'b', 'c']);
/// assert_eq!(began.elapsed(), Duration::from_millis(100));
/// # });
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pace {
    /// How many are ended together.
    pub batch: usize,
    /// The pause between two batches.
    pub every: Duration,
    /// How much longer a pause may be, at random.
    pub jitter: Duration,
    /// The most that all pauses take; batches grow until they do.
    pub within: Duration,
    /// When clients are asked to come back.
    pub retry_after: RetryAfter,
}

/// When clients that are sent away are asked to come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryAfter {
    /// None is asked to wait.
    Unasked,
    /// The server, or one in its place, is there: each after a time of its own, of this at most.
    Spread(Duration),
    /// The server ends, and may be started again.
    Ends {
        /// When the server is back, presumably.
        back_at: Instant,
        /// Each waits for a time of its own after that, of this at most.
        spread: Duration,
    },
}

impl Pace {
    /// All together, without asking for a wait.
    pub const AT_ONCE: Self = Self {
        batch: usize::MAX,
        every: Duration::ZERO,
        jitter: Duration::ZERO,
        within: Duration::MAX,
        retry_after: RetryAfter::Unasked,
    };

    /// Calls `end` with each item and its number, batch by batch.
    pub async fn walk<T>(&self, items: &[T], mut end: impl FnMut(usize, &T)) {
        let batch = self.batch_of(items.len());
        for (at, some) in items.chunks(batch).enumerate() {
            if at > 0 {
                tokio::time::sleep(self.pause()).await;
            }
            for (within, item) in some.iter().enumerate() {
                end(at * batch + within, item);
            }
        }
    }

    /// Returns how many of `count` are ended together: `batch`, or as many as it takes for all of
    /// them to end within the time.
    pub(crate) fn batch_of(&self, count: usize) -> usize {
        let longest = self.every.saturating_add(self.jitter).as_nanos();
        let pauses = self.within.as_nanos().checked_div(longest);
        let batches = pauses.map_or(1, |pauses| {
            usize::try_from(pauses)
                .unwrap_or(usize::MAX)
                .saturating_add(1)
        });
        self.batch.max(count.div_ceil(batches)).max(1)
    }

    /// Returns the longest time from the first batch of `count` to the last one.
    pub(crate) fn length_of(&self, count: usize) -> Duration {
        let pauses = count.div_ceil(self.batch_of(count)).saturating_sub(1);
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        self.every
            .saturating_add(self.jitter)
            .saturating_mul(pauses)
    }

    /// Returns when the batch with a number ends, counted from the first one.
    pub(crate) fn turn_of(&self, batch: usize) -> Duration {
        let batch = u32::try_from(batch).unwrap_or(u32::MAX);
        let jitter = match batch {
            0 => Duration::ZERO,
            _ => self.jitter.mul_f64(fastrand::f64()),
        };
        self.every.saturating_mul(batch).saturating_add(jitter)
    }

    /// Returns the seconds from now after which the client with a number is asked to come back.
    /// They differ between neighbours. `None` if none is asked.
    pub(crate) fn seconds_of(&self, number: usize) -> Option<u64> {
        self.seconds_from(Instant::now(), number)
    }

    /// Returns the same, counted from another time.
    pub(crate) fn seconds_from(&self, when: Instant, number: usize) -> Option<u64> {
        let (least, spread) = match self.retry_after {
            RetryAfter::Unasked => return None,
            RetryAfter::Spread(spread) => (Duration::ZERO, spread),
            RetryAfter::Ends { back_at, spread } => {
                (back_at.saturating_duration_since(when), spread)
            }
        };
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        Some(rounded_up(least) + number % (rounded_up(spread) + 1))
    }

    fn pause(&self) -> Duration {
        self.every
            .saturating_add(self.jitter.mul_f64(fastrand::f64()))
    }
}

/// Returns the seconds of a duration, the last one of which may have begun only.
fn rounded_up(duration: Duration) -> u64 {
    let has_fraction = duration.subsec_nanos() > 0;
    duration.as_secs().saturating_add(u64::from(has_fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        batch: 500,
        every: Duration::from_millis(100),
        jitter: Duration::from_millis(50),
        within: Duration::from_secs(15),
        retry_after: RetryAfter::Spread(Duration::from_secs(5)),
    };

    /// Returns the number of items that each batch had, and the time from each to the next.
    async fn walked(pace: Pace, count: usize) -> (Vec<usize>, Vec<Duration>) {
        let mut batches: Vec<(Instant, usize)> = Vec::new();
        let items: Vec<usize> = (0..count).collect();
        pace.walk(&items, |number, item| {
            assert_eq!(number, *item);
            let now = Instant::now();
            match batches.last_mut() {
                Some((at, count)) if *at == now => *count += 1,
                _ => batches.push((now, 1)),
            }
        })
        .await;
        let pauses = batches.windows(2).map(|pair| pair[1].0 - pair[0].0);
        let pauses = pauses.collect();
        (
            batches.into_iter().map(|(_, count)| count).collect(),
            pauses,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn batches_are_full_and_pauses_lie_within_their_bounds() {
        let (batches, pauses) = walked(PACE, 10_300).await;
        assert_eq!(batches[..20], [500; 20]);
        assert_eq!(batches[20..], [300]);
        let bounds = PACE.every..=PACE.every + PACE.jitter + Duration::from_millis(1);
        assert!(
            pauses.iter().all(|pause| bounds.contains(pause)),
            "{pauses:?}"
        );
        let differ = pauses.iter().any(|pause| *pause != pauses[0]);
        assert!(differ, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn batches_grow_until_all_end_within_the_time() {
        let began = Instant::now();
        let within = Duration::from_secs(1);
        let (batches, _) = walked(Pace { within, ..PACE }, 100_000).await;
        // 6 pauses of at most 150 ms, 7 batches.
        assert_eq!(batches[0], 100_000_usize.div_ceil(7));
        let length = Pace { within, ..PACE }.length_of(100_000);
        assert_eq!(length, Duration::from_millis(6 * 150));
        assert_eq!(batches.iter().sum::<usize>(), 100_000);
        assert!(began.elapsed() <= within, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_and_no_pause_end_all_at_once() {
        let began = Instant::now();
        let (none, always) = (Duration::ZERO, Pace::AT_ONCE);
        for pace in [
            Pace {
                within: none,
                ..PACE
            },
            always,
        ] {
            assert_eq!(walked(pace, 2_000).await.0, [2_000]);
        }
        let unpaused = Pace {
            every: none,
            jitter: none,
            ..PACE
        };
        assert_eq!(walked(unpaused, 2_000).await.0, [2_000]);
        assert_eq!(walked(PACE, 0).await.0, [0; 0]);
        assert_eq!(began.elapsed(), none);
    }

    #[test]
    fn turns_are_as_far_apart_as_batches() {
        assert_eq!(PACE.turn_of(0), Duration::ZERO);
        for batch in 1..50_u32 {
            let turn = PACE.turn_of(batch as usize);
            let first = PACE.every * batch;
            assert!((first..=first + PACE.jitter).contains(&turn), "{turn:?}");
        }
    }

    #[test]
    fn neighbours_are_asked_to_come_back_at_different_times() {
        let asked: Vec<u64> = (0..8).filter_map(|at| PACE.seconds_of(at)).collect();
        assert_eq!(asked, [0, 1, 2, 3, 4, 5, 0, 1]);
        let pace = Pace {
            retry_after: RetryAfter::Spread(Duration::from_millis(1_500)),
            ..PACE
        };
        assert_eq!(pace.seconds_of(2), Some(2));
        assert_eq!(Pace::AT_ONCE.seconds_of(3), None);
    }

    #[test]
    fn the_last_batch_ends_after_the_pauses_between_all() {
        let length = |count| PACE.length_of(count).as_millis();
        assert_eq!([0, 1, 500, 501, 10_000].map(length), [0, 0, 0, 150, 2_850]);
        assert_eq!(Pace::AT_ONCE.length_of(usize::MAX), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_of_a_server_that_ends_come_back_once_it_is_back() {
        let (began, wait) = (Instant::now(), Duration::from_secs(2));
        let length = PACE.length_of(10_300);
        assert_eq!(length, Duration::from_secs(3));
        let pace = Pace {
            retry_after: RetryAfter::Ends {
                back_at: began + length + wait,
                spread: Duration::from_secs(3),
            },
            ..PACE
        };
        let mut back = Vec::new();
        pace.walk(&[(); 10_300], |number, ()| {
            let asked = pace.seconds_of(number).unwrap();
            back.push(began.elapsed() + Duration::from_secs(asked));
        })
        .await;
        // Rounded up, and as spread as they were sent away.
        let bounds = length + wait..=length + wait + Duration::from_secs(4);
        assert!(back.iter().all(|at| bounds.contains(at)));
        let soon = length + wait + Duration::from_secs(1);
        let count = back.iter().filter(|at| **at < soon).count();
        assert!((1_000..4_000).contains(&count), "{count}");
        // Much later the wait is over, and the spread is not.
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(
            [4, 5, 6, 7].map(|at| pace.seconds_of(at).unwrap()),
            [0, 1, 2, 3]
        );
    }
}
