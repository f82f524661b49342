//! Renewal with a CA in memory and a clock of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rcgen::{CertificateParams, KeyPair};

use super::authority::{Authority, ChallengeKind, Issued, OrderError, OrderRequest, RenewalWindow};
use super::cache::{Cache, ChallengeFile, Failures};
use super::challenges::{Answers, Responder};
use super::kinds;
use super::renewal::{Renewal, Settings};
use super::scratch::Scratch;
use crate::config::AcmeChallenge;
use crate::net::{Certificate, Certificates};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

use ChallengeKind::{Http01, TlsAlpn01};

/// The time of a test.
#[derive(Clone)]
struct Time(Arc<Mutex<SystemTime>>);

impl Time {
    fn now(&self) -> SystemTime {
        *self.0.lock()
    }

    fn pass(&self, time: Duration) {
        *self.0.lock() += time;
    }
}

/// What the CA does with the next order.
enum Answer {
    /// It issues a certificate for 90 days.
    Issue,
    /// It issues a certificate for another name.
    IssueFor(&'static str),
    Fail(OrderError),
    Hang,
}

/// A CA in memory. Without further answers it issues.
#[derive(Clone)]
struct Ca {
    time: Time,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    orders: Arc<Mutex<Vec<OrderRequest>>>,
    window: Arc<Mutex<Option<RenewalWindow>>>,
    /// Whether it does not answer questions about the window.
    is_mute: Arc<AtomicBool>,
}

impl Ca {
    fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().extend(answers);
    }

    /// Returns the orders since the last call.
    fn take_orders(&self) -> Vec<OrderRequest> {
        std::mem::take(&mut self.orders.lock())
    }

    fn count(&self) -> usize {
        self.orders.lock().len()
    }
}

impl Authority for Ca {
    async fn order(&self, request: OrderRequest) -> Result<Issued, OrderError> {
        self.orders.lock().push(request.clone());
        let answer = self.answers.lock().pop_front().unwrap_or(Answer::Issue);
        match answer {
            Answer::Issue => Ok(issue(&request.domain, self.time.now(), 90 * DAY)),
            Answer::IssueFor(name) => Ok(issue(name, self.time.now(), 90 * DAY)),
            Answer::Fail(error) => Err(error),
            Answer::Hang => std::future::pending().await,
        }
    }

    async fn renewal_window(&self, _: &[u8]) -> Result<Option<RenewalWindow>, OrderError> {
        if self.is_mute.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(self.window.lock().clone())
    }
}

fn issue(name: &str, from: SystemTime, lifetime: Duration) -> Issued {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.not_before = from.into();
    params.not_after = (from + lifetime).into();
    let certificate = params.self_signed(&key).unwrap();
    Issued {
        pem: format!("{}{}", key.serialize_pem(), certificate.pem()),
    }
}

/// A process that shares a cache.
struct Process {
    renewal: Renewal<Ca>,
    certificates: Arc<Certificates>,
    answers: Arc<Answers>,
}

impl Process {
    /// Lets a second of the loop pass.
    async fn turn(&mut self) {
        self.renewal.poll().await;
        while self.renewal.renew().await {}
    }

    /// Returns the names that are served.
    fn names(&self) -> Vec<String> {
        let served = self.certificates.all();
        let names = served.iter().flat_map(|one| one.facts().names.clone());
        names.collect()
    }

    fn until(&self) -> SystemTime {
        self.certificates.all()[0].facts().not_after
    }
}

struct World {
    scratch: Scratch,
    time: Time,
    ca: Ca,
}

impl World {
    fn new() -> Self {
        // Whole seconds, as in certificates.
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let time = Time(Arc::new(Mutex::new(start)));
        Self {
            scratch: Scratch::new(),
            ca: Ca {
                time: time.clone(),
                answers: Arc::default(),
                orders: Arc::default(),
                window: Arc::default(),
                is_mute: Arc::default(),
            },
            time,
        }
    }

    fn cache(&self) -> Cache {
        Cache::new(self.scratch.path(), "https://ca.test/dir")
    }

    fn process(&self, domains: &[&str]) -> Process {
        self.reloaded(domains, self.cache(), None)
    }

    /// A process whose section has changed.
    fn reloaded(&self, domains: &[&str], cache: Cache, before: Option<Process>) -> Process {
        let certificates = Arc::new(Certificates::default());
        let answers = Arc::new(Answers::default());
        let time = self.time.clone();
        let settings = Settings {
            authority: Arc::new(self.ca.clone()),
            cache,
            domains: domains.iter().map(ToString::to_string).collect(),
            kinds: vec![TlsAlpn01, Http01],
            certificates: certificates.clone(),
            responder: Responder::new(answers.clone(), certificates.clone()),
            now: Arc::new(move || time.now()),
        };
        let renewal = Renewal::new(settings, before.map(|before| before.renewal));
        Process {
            renewal,
            certificates,
            answers,
        }
    }
}

fn of_challenge(kind: ChallengeKind) -> Answer {
    Answer::Fail(OrderError::new("unauthorized").of_challenge(kind))
}

fn failure() -> Answer {
    Answer::Fail(OrderError::new("the directory is away"))
}

#[tokio::test]
async fn certificate_is_obtained_once_and_read_from_the_cache_afterwards() {
    let world = World::new();
    let mut process = world.process(&["a.test", "b.test"]);
    process.turn().await;
    assert_eq!(process.names(), ["a.test", "b.test"]);
    let orders = world.ca.take_orders();
    assert_eq!(orders.len(), 2);
    assert_eq!(orders[0].kinds, [TlsAlpn01, Http01]);
    assert_eq!(orders[0].replaces, None);
    process.turn().await;
    let mut restarted = world.process(&["a.test"]);
    restarted.renewal.poll().await;
    assert_eq!(restarted.names(), ["a.test"]);
    restarted.turn().await;
    assert_eq!(world.ca.count(), 0);
}

#[tokio::test]
async fn certificate_is_renewed_after_two_thirds_of_its_lifetime() {
    let world = World::new();
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    let first = process.until();
    let pem = world.cache().certificate("a.test").unwrap().unwrap();
    world.ca.take_orders();
    world.time.pass(59 * DAY);
    process.turn().await;
    assert_eq!(world.ca.count(), 0);
    world.time.pass(5 * DAY);
    process.turn().await;
    let orders = world.ca.take_orders();
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].replaces.as_deref(), Some(pem.as_bytes()));
    assert_eq!(process.until(), first + 64 * DAY);
    process.turn().await;
    assert_eq!(world.ca.count(), 0);
}

#[tokio::test]
async fn old_certificate_is_served_while_the_renewal_fails() {
    let world = World::new();
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    let first = process.until();
    world.ca.answer([failure(), failure()]);
    world.time.pass(64 * DAY);
    process.turn().await;
    assert_eq!(process.until(), first);
    world.time.pass(40 * DAY);
    process.turn().await;
    assert_eq!(process.until(), first, "also after its end");
    world.time.pass(DAY);
    process.turn().await;
    assert!(process.until() > world.time.now());
}

#[tokio::test]
async fn delays_between_failures_double() {
    let world = World::new();
    world.ca.answer(std::iter::repeat_with(failure).take(100));
    let mut process = world.process(&["a.test"]);
    let mut at = Vec::new();
    for minute in 0..130 {
        process.turn().await;
        if !world.ca.take_orders().is_empty() {
            at.push(minute);
        }
        world.time.pass(MINUTE);
    }
    // 0, 1, 3, 7, 15, 31, 63, each delay a quarter less or more, rounded up.
    assert!((6..=8).contains(&at.len()), "{at:?}");
    for pair in at.windows(3) {
        assert!(pair[2] - pair[1] >= pair[1] - pair[0], "{at:?}");
    }
    assert!(process.names().is_empty());
}

#[tokio::test]
async fn other_challenge_is_tried_after_one_that_failed() {
    let world = World::new();
    let mut process = world.process(&["a.test"]);
    world.ca.answer([
        failure(),
        of_challenge(TlsAlpn01),
        failure(),
        of_challenge(Http01),
        Answer::Issue,
    ]);
    let mut first = Vec::new();
    for _ in 0..5 {
        process.turn().await;
        first.extend(world.ca.take_orders().iter().map(|order| order.kinds[0]));
        world.time.pass(DAY);
    }
    assert_eq!(first, [TlsAlpn01, TlsAlpn01, Http01, Http01, TlsAlpn01]);
    assert_eq!(process.names(), ["a.test"]);
}

#[tokio::test]
async fn wait_after_a_failure_outlives_the_process() {
    let world = World::new();
    world.ca.answer([failure()]);
    world.process(&["a.test"]).turn().await;
    assert_eq!(world.ca.take_orders().len(), 1);
    let mut restarted = world.process(&["a.test"]);
    restarted.turn().await;
    assert_eq!(world.ca.count(), 0);
    world.time.pass(2 * MINUTE);
    restarted.turn().await;
    assert_eq!(restarted.names(), ["a.test"]);
    assert_eq!(world.cache().failures("a.test"), None);
}

#[tokio::test]
async fn wait_that_no_failure_can_have_is_over() {
    for retry_at in [u64::MAX, u64::MAX / 2, 4_000_000_000] {
        let world = World::new();
        world.cache().create().unwrap();
        let failures = Failures {
            count: 3,
            retry_at,
            is_asked: true,
        };
        let cache = world.cache();
        cache.store_failures("a.test", Some(failures)).unwrap();
        let mut process = world.process(&["a.test"]);
        process.turn().await;
        assert_eq!(process.names(), ["a.test"], "{retry_at}");
    }
}

#[tokio::test]
async fn reload_ends_a_wait_unless_the_ca_asked_for_it() {
    let world = World::new();
    let mut asked = OrderError::new("rateLimited");
    asked.retry_after = Some(2 * 60 * MINUTE);
    world.ca.answer([failure(), Answer::Fail(asked)]);
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    process.renewal.retry_now();
    process.turn().await;
    assert_eq!(world.ca.take_orders().len(), 2);
    process.renewal.retry_now();
    world.time.pass(119 * MINUTE);
    process.turn().await;
    assert_eq!(world.ca.count(), 0);
    world.time.pass(2 * MINUTE);
    process.turn().await;
    assert_eq!(process.names(), ["a.test"]);
}

#[tokio::test]
async fn reload_ends_the_wait_for_a_renewal_too() {
    let world = World::new();
    world.process(&["a.test"]).turn().await;
    world.time.pass(64 * DAY);
    world.ca.answer([failure(), failure()]);
    world.process(&["a.test"]).turn().await;
    assert_eq!(world.ca.take_orders().len(), 2);
    // A changed section begins anew, with the certificate and its failure from the cache.
    let mut reloaded = world.process(&["a.test"]);
    reloaded.renewal.poll().await;
    reloaded.renewal.renew().await;
    assert_eq!(world.ca.count(), 0, "a restart goes on waiting");
    reloaded.renewal.retry_now();
    reloaded.renewal.renew().await;
    assert_eq!(world.ca.take_orders().len(), 1);
    let failures = world.cache().failures("a.test");
    assert!(matches!(failures, Some(Failures { count: 2, .. })));
}

#[tokio::test]
async fn another_ca_or_cache_is_no_reason_to_serve_nothing() {
    let world = World::new();
    let names = ["a.test", "b.test"];
    let mut process = world.process(&names);
    process.turn().await;
    world.ca.take_orders();
    let first = process.until();
    world.time.pass(DAY);
    world.ca.answer([failure()]);
    let other = Cache::new(world.scratch.path(), "https://other.test/dir");
    let mut reloaded = world.reloaded(&["a.test"], other, Some(process));
    reloaded.renewal.poll().await;
    assert_eq!(reloaded.names(), ["a.test"], "and not b.test");
    reloaded.turn().await;
    assert_eq!(world.ca.take_orders().len(), 1, "the other CA at once");
    assert_eq!(reloaded.until(), first);
    world.time.pass(2 * MINUTE);
    reloaded.turn().await;
    assert!(reloaded.until() > first);
}

#[tokio::test]
async fn certificate_that_could_not_be_stored_outlives_a_reload() {
    let world = World::new();
    let in_the_way = world.cache().path().join("a.test.pem");
    std::fs::create_dir_all(in_the_way.join("x")).unwrap();
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    let names = ["a.test", "b.test"];
    let mut reloaded = world.reloaded(&names, world.cache(), Some(process));
    reloaded.turn().await;
    assert_eq!(reloaded.names(), names);
    assert_eq!(world.ca.take_orders().len(), 2, "one for each");
    std::fs::remove_dir_all(&in_the_way).unwrap();
    world.time.pass(2 * MINUTE);
    reloaded.turn().await;
    assert!(in_the_way.is_file());
    assert_eq!(world.ca.count(), 0);
}

#[tokio::test]
async fn certificate_of_another_process_ends_the_failures() {
    let world = World::new();
    world.ca.answer([failure()]);
    let (mut one, mut two) = (world.process(&["a.test"]), world.process(&["a.test"]));
    one.turn().await;
    one.renewal.retry_now();
    two.turn().await;
    world.time.pass(2 * MINUTE);
    two.turn().await;
    one.renewal.poll().await;
    assert_eq!(one.names(), ["a.test"]);
    // The next failure is the first again.
    world.time.pass(64 * DAY);
    world.ca.answer([failure()]);
    one.turn().await;
    let failures = world.cache().failures("a.test");
    assert!(matches!(failures, Some(Failures { count: 1, .. })));
}

#[tokio::test(start_paused = true)]
async fn cache_is_polled_during_an_order() {
    let world = World::new();
    world.ca.answer([Answer::Hang]);
    let mut process = world.process(&["a.test", "b.test"]);
    process.renewal.poll().await;
    let cache = world.cache();
    let (certificates, answers) = (process.certificates.clone(), process.answers.clone());
    let issued = issue("b.test", world.time.now(), 90 * DAY).pem;
    let other = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        cache.store_certificate("b.test", &issued).unwrap();
        let token = "tok".to_owned();
        store_challenge(&cache, &token, world.time.now());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(certificates.all().len(), 1);
        assert!(answers.get("/.well-known/acme-challenge/tok").is_some());
    };
    tokio::select! {
        _ = process.renewal.renew() => panic!("the order has ended"),
        () = other => {}
    }
}

#[tokio::test]
async fn challenge_left_behind_is_answered_for_an_hour() {
    let world = World::new();
    world.cache().create().unwrap();
    store_challenge(&world.cache(), "tok", world.time.now());
    let mut process = world.process(&["a.test"]);
    process.renewal.poll().await;
    let is_answered = || {
        process
            .answers
            .get("/.well-known/acme-challenge/tok")
            .is_some()
    };
    assert!(is_answered());
    world.time.pass(59 * MINUTE);
    process.renewal.poll().await;
    assert!(is_answered());
    world.time.pass(2 * MINUTE);
    process.renewal.poll().await;
    assert!(!is_answered());
}

/// Stores a challenge as another process would at this time.
fn store_challenge(cache: &Cache, token: &str, now: SystemTime) {
    let challenge = ChallengeFile::Http {
        token: token.to_owned(),
        answer: format!("{token}.thumb"),
    };
    cache.store_challenge(&challenge).unwrap();
    let path = cache.path().join("challenges").join(token);
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(now).unwrap();
}

#[tokio::test]
async fn order_that_is_due_comes_before_those_that_have_failed() {
    let world = World::new();
    let names = ["a.test", "b.test", "c.test"];
    world.ca.answer([failure(), failure()]);
    let mut process = world.process(&names);
    process.turn().await;
    assert_eq!(process.names(), ["c.test"]);
    world.ca.take_orders();
    std::fs::remove_file(world.cache().path().join("c.test.pem")).unwrap();
    world.time.pass(DAY);
    process.turn().await;
    let orders = world.ca.take_orders();
    assert_eq!(orders[0].domain, "c.test");
    assert_eq!(orders.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn ca_that_does_not_answer_a_question_keeps_no_order_waiting() {
    let world = World::new();
    let names = ["a.test", "b.test", "c.test"];
    let mut process = world.process(&names);
    process.turn().await;
    world.ca.take_orders();
    world.ca.is_mute.store(true, Ordering::Relaxed);
    world.time.pass(DAY); // all are asked about
    std::fs::remove_file(world.cache().path().join("c.test.pem")).unwrap();
    let started = tokio::time::Instant::now();
    process.turn().await;
    assert_eq!(world.ca.take_orders().len(), 1);
    assert_eq!(started.elapsed().as_secs(), 60, "one question a turn");
}

#[tokio::test]
async fn of_two_processes_one_orders_and_both_serve() {
    let world = World::new();
    let (mut one, mut two) = (world.process(&["a.test"]), world.process(&["a.test"]));
    one.renewal.poll().await;
    two.renewal.poll().await;
    let now = world.time.now();
    let lock = world.cache().lock(now, now + MINUTE).unwrap();
    two.turn().await;
    assert_eq!(world.ca.count(), 0, "a third process orders");
    drop(lock);
    while one.renewal.renew().await {}
    // It has not polled since, and reads the certificate once it has the lock.
    while two.renewal.renew().await {}
    assert_eq!(world.ca.take_orders().len(), 1);
    assert_eq!(
        (one.names(), two.names()),
        (vec!["a.test".to_owned()], vec!["a.test".to_owned()])
    );
    // The renewal of one is seen by the other's poll.
    world.time.pass(64 * DAY);
    one.turn().await;
    two.renewal.poll().await;
    assert_eq!(two.until(), one.until());
    two.turn().await;
    assert_eq!(world.ca.count(), 1);
}

#[tokio::test]
async fn failure_of_one_process_makes_the_other_wait() {
    let world = World::new();
    world.ca.answer([failure()]);
    let (mut one, mut two) = (world.process(&["a.test"]), world.process(&["a.test"]));
    one.turn().await;
    two.turn().await;
    assert_eq!(world.ca.count(), 1);
}

#[tokio::test]
async fn broken_file_in_the_cache_is_replaced() {
    for text in [
        String::new(),
        "half a certificate".to_owned(),
        issue("other.test", SystemTime::now(), 90 * DAY).pem,
    ] {
        let world = World::new();
        world.cache().create().unwrap();
        world.cache().store_certificate("a.test", &text).unwrap();
        let mut process = world.process(&["a.test"]);
        process.renewal.poll().await;
        assert!(process.names().is_empty());
        process.turn().await;
        assert_eq!(process.names(), ["a.test"]);
        assert_eq!(world.ca.count(), 1);
    }
}

#[tokio::test]
async fn expired_certificate_is_served_until_there_is_a_new_one() {
    let world = World::new();
    let start = world.time.now() - 100 * DAY;
    world.cache().create().unwrap();
    let expired = issue("a.test", start, 90 * DAY).pem;
    world.cache().store_certificate("a.test", &expired).unwrap();
    world.ca.answer([failure()]);
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    assert_eq!(process.until(), start + 90 * DAY);
    world.time.pass(2 * MINUTE);
    process.turn().await;
    assert!(process.until() > world.time.now());
}

#[tokio::test]
async fn removed_file_is_replaced_at_once() {
    let world = World::new();
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    let file = world.cache().path().join("a.test.pem");
    std::fs::remove_file(&file).unwrap();
    world.time.pass(DAY);
    let before = process.until();
    process.turn().await;
    assert_eq!(process.until(), before + DAY);
    assert_eq!(world.ca.count(), 2);
    assert!(file.exists());
}

#[tokio::test]
async fn certificate_that_cannot_be_stored_is_served_and_stored_later() {
    let world = World::new();
    let in_the_way = world.cache().path().join("a.test.pem");
    std::fs::create_dir_all(in_the_way.join("x")).unwrap();
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    assert_eq!(process.names(), ["a.test"]);
    std::fs::remove_dir_all(&in_the_way).unwrap();
    process.turn().await;
    assert!(!in_the_way.exists(), "not yet");
    world.time.pass(2 * MINUTE);
    process.turn().await;
    assert!(in_the_way.is_file());
    assert_eq!(world.ca.count(), 1);
}

#[tokio::test]
async fn cache_that_cannot_be_written_keeps_the_ca_in_peace() {
    let world = World::new();
    std::fs::write(world.cache().path(), "").unwrap();
    let mut process = world.process(&["a.test"]);
    for _ in 0..5 {
        process.turn().await;
        process.turn().await;
        assert_eq!(world.ca.count(), 0);
        world.time.pass(2 * MINUTE); // it tries each minute
    }
    process.turn().await;
    std::fs::remove_file(world.cache().path()).unwrap();
    process.turn().await;
    assert_eq!(world.ca.count(), 0, "it waits a minute");
    world.time.pass(2 * MINUTE);
    process.turn().await;
    assert_eq!(process.names(), ["a.test"]);
}

#[tokio::test]
async fn one_domain_does_not_hold_up_the_others() {
    let world = World::new();
    world.ca.answer([failure()]);
    let mut process = world.process(&["a.test", "b.test"]);
    process.turn().await;
    assert_eq!(process.names(), ["b.test"]);
}

#[tokio::test]
async fn certificate_for_another_name_is_not_served() {
    let world = World::new();
    world.ca.answer([Answer::IssueFor("other.test")]);
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    assert!(process.names().is_empty());
    assert_eq!(world.cache().certificate("a.test").unwrap(), None);
    let failures = world.cache().failures("a.test");
    assert!(matches!(failures, Some(Failures { count: 1, .. })));
}

#[tokio::test(start_paused = true)]
async fn order_that_does_not_end_is_given_up_after_ten_minutes() {
    let world = World::new();
    world.ca.answer([Answer::Hang]);
    let mut process = world.process(&["a.test"]);
    let started = tokio::time::Instant::now();
    process.turn().await;
    assert_eq!(started.elapsed().as_secs(), 600);
    let now = world.time.now();
    assert!(
        world.cache().lock(now, now).unwrap().is_some(),
        "the lock is free"
    );
    world.time.pass(2 * MINUTE);
    process.turn().await;
    assert_eq!(process.names(), ["a.test"]);
}

#[tokio::test]
async fn name_that_a_file_has_is_not_ordered() {
    let world = World::new();
    let mut process = world.process(&["a.test", "b.test"]);
    let file = issue("a.test", world.time.now(), 90 * DAY).pem;
    let file = Certificate::from_pem(file.as_bytes(), file.as_bytes()).unwrap();
    process.certificates.replace_files(vec![Arc::new(file)]);
    process.turn().await;
    let orders = world.ca.take_orders();
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].domain, "b.test");
}

#[tokio::test]
async fn ca_may_ask_for_an_early_renewal() {
    let world = World::new();
    let mut process = world.process(&["a.test"]);
    process.turn().await;
    let now = world.time.now();
    *world.ca.window.lock() = Some(RenewalWindow {
        window: now + 2 * DAY..now + 3 * DAY,
        again_after: 60 * MINUTE,
    });
    world.time.pass(DAY);
    process.turn().await;
    assert_eq!(world.ca.take_orders().len(), 1);
    world.time.pass(2 * DAY);
    *world.ca.window.lock() = None;
    process.turn().await;
    assert_eq!(world.ca.count(), 1);
}

#[test]
fn challenge_fits_the_ports() {
    for (challenge, ports, expected) in [
        (AcmeChallenge::Auto, &[443][..], &[TlsAlpn01, Http01][..]),
        (AcmeChallenge::Auto, &[80, 443], &[TlsAlpn01, Http01]),
        (AcmeChallenge::Auto, &[80], &[Http01, TlsAlpn01]),
        (AcmeChallenge::Auto, &[8000], &[TlsAlpn01, Http01]),
        (AcmeChallenge::Http01, &[443], &[Http01]),
        (AcmeChallenge::TlsAlpn01, &[80], &[TlsAlpn01]),
    ] {
        assert_eq!(kinds(challenge, ports), expected, "{challenge:?} {ports:?}");
    }
}
