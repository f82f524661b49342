//! Tests of the clock: timers one by one, and against a naive list.

use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Bell(AtomicUsize);

impl Tick for Bell {
    fn tick(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn target(bell: &Arc<Bell>) -> Weak<dyn Tick> {
    Arc::downgrade(&(bell.clone() as Arc<dyn Tick>))
}

#[test]
fn ticks_come_once_and_not_before_their_instant() {
    let clock = Clock::default();
    let bell = Arc::new(Bell::default());
    clock.wake_at(250, target(&bell));
    let mut done = 0;
    for (now, rung) in [(100, 0), (249, 0), (299, 0), (300, 1), (60_000, 1)] {
        done = clock.turn_to(now, done);
        assert_eq!(bell.0.load(Ordering::Relaxed), rung, "{now}");
    }
    // Many turns of the wheel ahead, and called late.
    clock.wake_at(200_000, target(&bell));
    done = clock.turn_to(199_900, done);
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    clock.turn_to(900_000, done);
    assert_eq!(bell.0.load(Ordering::Relaxed), 2);
}

#[test]
fn a_pause_does_not_advance_the_clock() {
    let passed = [100, 120, 100, 5_000, 100].map(|between| advance(Duration::from_millis(between)));
    assert_eq!(
        passed.iter().sum::<Duration>(),
        Duration::from_millis(1_420)
    );
}

#[test]
fn entries_freed_after_the_last_one_due_are_skipped() {
    let clock = Clock::default();
    let bells: Vec<_> = (0..3).map(|_| Arc::new(Bell::default())).collect();
    let calls: Vec<_> = bells
        .iter()
        .map(|bell| clock.wake_at(1_000, target(bell)))
        .collect();
    clock.cancel(calls[1]);
    clock.cancel(calls[2]);
    clock.turn_to(1_000, 0);
    assert_eq!(bells[0].0.load(Ordering::Relaxed), 1);
}

#[test]
fn a_cancelled_timer_drops_its_target_and_no_other() {
    let clock = Clock::default();
    let (gone, other) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let key = clock.wake_at(1_000, target(&gone));
    clock.cancel(key);
    assert_eq!(Arc::weak_count(&gone), 0);
    clock.wake_at(1_000, target(&other)); // reuses the free entry
    clock.cancel(key);
    assert_eq!(Arc::weak_count(&other), 1);
    clock.turn_to(1_000, 0);
    assert_eq!(
        (
            gone.0.load(Ordering::Relaxed),
            other.0.load(Ordering::Relaxed)
        ),
        (0, 1)
    );
    assert_eq!(Arc::weak_count(&other), 0);
}

/// What happens to a clock.
#[derive(Clone, Debug)]
enum Step {
    /// A timer is set, so far from now.
    Wake(Millis),
    /// A timer is cancelled, by its number.
    Cancel(usize),
    /// Time passes.
    Turn(Millis),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => prop_oneof![0..500_u64, 0..200_000_u64].prop_map(Step::Wake),
        2 => (0..40_usize).prop_map(Step::Cancel),
        4 => prop_oneof![1..300_u64, 1..60_000_u64, 51_000..300_000_u64].prop_map(Step::Turn),
    ]
}

proptest! {
    /// A naive list of timers: each is called once at the first tick at or after its instant,
    /// unless it was cancelled before.
    #[test]
    fn timers_are_called_as_a_list_of_them_is(
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let clock = Clock::default();
        let mut now = 0;
        let mut timers: Vec<(Arc<Bell>, TimerKey, Millis, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Wake(wait) => {
                    let bell = Arc::new(Bell::default());
                    let key = clock.wake_at(now + wait, target(&bell));
                    timers.push((bell, key, now + wait, false));
                }
                Step::Cancel(number) => {
                    if let Some((bell, key, _, is_cancelled)) = timers.get_mut(number) {
                        clock.cancel(*key);
                        *is_cancelled |= bell.0.load(Ordering::Relaxed) == 0;
                    }
                }
                Step::Turn(wait) => {
                    now += wait;
                    clock.turn(now);
                }
            }
            prop_assert_eq!(clock.now(), now);
            for (bell, _, at, is_cancelled) in &timers {
                let rung = bell.0.load(Ordering::Relaxed);
                prop_assert!(rung <= 1 && (rung == 0 || now >= *at), "before its instant");
                prop_assert!(!is_cancelled || rung == 0, "cancelled");
                // At most one tick after it, or after it was set.
                let is_late = now >= at + 2 * tick_millis();
                prop_assert!(*is_cancelled || rung == 1 || !is_late, "{now}: not called at {at}");
                prop_assert_eq!(Arc::weak_count(bell), usize::from(rung == 0 && !is_cancelled));
            }
        }
    }
}
