//! Challenges: the answers that this process gives to a CA that validates a name.
//!
//! Those of its own orders, and those that other processes have put into the shared cache: any
//! process may be the one that the CA reaches. Answers to `http-01` are kept in memory; those to
//! `tls-alpn-01` are certificates, which the listeners serve. A request of a stranger reads no
//! file.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use super::cache::{Cache, ChallengeFile};
use crate::net::{Certificate, Certificates};

/// The path of `http-01` (RFC 8555 §8.3), without the token.
const PATH: &str = "/.well-known/acme-challenge/";

/// The most answers. An order has one, a shared cache those of a few processes.
const ANSWERS_MAX: usize = 256;

/// The longest token, which is also the name of a file.
const TOKEN_BYTES_MAX: usize = 200;

/// The answers to `http-01`, by token.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Whether there is any: requests of a server without challenges take no lock.
    is_any: AtomicBool,
    by_token: Mutex<HashMap<String, Arc<str>>>,
}

impl Answers {
    /// Returns the answer to a request for a path; `None` unless it is for a token under way.
    pub(super) fn get(&self, path: &str) -> Option<Arc<str>> {
        if !self.is_any.load(Ordering::Acquire) {
            return None;
        }
        let token = path.strip_prefix(PATH)?;
        self.by_token.lock().get(token).cloned()
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<String, Arc<str>>)) {
        let mut by_token = self.by_token.lock();
        change(&mut by_token);
        self.is_any.store(!by_token.is_empty(), Ordering::Release);
    }
}

/// Publishes the challenges of this process, and answers those of others.
#[derive(Clone, Debug)]
pub(super) struct Responder {
    answers: Arc<Answers>,
    certificates: Arc<Certificates>,
    /// The challenges of others that this process answers.
    others: Arc<Mutex<Vec<ChallengeFile>>>,
    /// The challenge of the order of this process.
    own: Arc<Mutex<Option<ChallengeFile>>>,
}

/// A challenge that is answered until this is dropped.
#[derive(Debug)]
pub(super) struct Published {
    responder: Responder,
    cache: Cache,
    challenge: ChallengeFile,
}

impl Responder {
    pub(super) fn new(answers: Arc<Answers>, certificates: Arc<Certificates>) -> Self {
        Self {
            answers,
            certificates,
            others: Arc::default(),
            own: Arc::default(),
        }
    }

    /// Answers a challenge, in this process and in those that share the cache. Fails with a
    /// sentence.
    pub(super) async fn publish(
        &self,
        cache: &Cache,
        challenge: ChallengeFile,
    ) -> Result<Published, String> {
        self.answer(&challenge)?;
        *self.own.lock() = Some(challenge.clone());
        let published = Published {
            responder: self.clone(),
            cache: cache.clone(),
            challenge: challenge.clone(),
        };
        let (cache, path) = (cache.clone(), cache.path().to_owned());
        match spawn_blocking(move || cache.store_challenge(&challenge)).await {
            Ok(Ok(())) => Ok(published),
            Ok(Err(error)) => Err(format!(
                "cannot write a challenge to {}: {error}",
                path.display()
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Replaces the challenges of other processes.
    pub(super) fn set_others(&self, challenges: Vec<ChallengeFile>) {
        let own = self.own.lock().clone();
        // An order replaces what a process that died has left behind for its domain.
        let is_own = |other: &ChallengeFile| own.as_ref().is_some_and(|own| own.has_file_of(other));
        let mut others = self.others.lock();
        for gone in others.iter().filter(|other| !challenges.contains(other)) {
            if !is_own(gone) {
                self.forget(gone);
            }
        }
        others.clear();
        for challenge in challenges {
            // A file that another process wrote wrongly must not keep the rest from being
            // answered.
            if !is_own(&challenge) && self.answer(&challenge).is_ok() {
                others.push(challenge);
            }
        }
    }

    fn answer(&self, challenge: &ChallengeFile) -> Result<(), String> {
        match challenge {
            ChallengeFile::Http { token, answer } => {
                if !is_token(token) {
                    return Err("expected a token in base64url, found another text".to_owned());
                }
                let mut is_full = false;
                self.answers.change(|by_token| {
                    is_full = by_token.len() >= ANSWERS_MAX && !by_token.contains_key(token);
                    if !is_full {
                        by_token.insert(token.clone(), answer.as_str().into());
                    }
                });
                if is_full {
                    return Err(format!("{ANSWERS_MAX} challenges are under way"));
                }
            }
            ChallengeFile::Alpn { domain, pem } => {
                let certificate = Certificate::from_challenge_pem(pem.as_bytes())
                    .map_err(|error| error.to_string())?;
                if !self.certificates.set_challenge(domain, certificate) {
                    return Err("too many challenges are under way".to_owned());
                }
            }
        }
        Ok(())
    }

    fn forget(&self, challenge: &ChallengeFile) {
        match challenge {
            ChallengeFile::Http { token, .. } => self.answers.change(|by_token| {
                by_token.remove(token);
            }),
            ChallengeFile::Alpn { domain, .. } => self.certificates.remove_challenge(domain),
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        *self.responder.own.lock() = None;
        self.responder.forget(&self.challenge);
        // Blocks for one removal. If it fails, the file is ignored after an hour.
        let _ = self.cache.remove_challenge(&self.challenge);
    }
}

/// Returns whether a text is a token (RFC 8555 §8.3), which is also a file name.
fn is_token(text: &str) -> bool {
    let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_base64url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::scratch::Scratch;

    fn responder() -> (Responder, Arc<Answers>) {
        let answers = Arc::new(Answers::default());
        (Responder::new(answers.clone(), Arc::default()), answers)
    }

    fn http(token: &str) -> ChallengeFile {
        ChallengeFile::Http {
            token: token.to_owned(),
            answer: format!("{token}.thumb"),
        }
    }

    #[tokio::test]
    async fn token_is_answered_while_its_order_runs() {
        let scratch = Scratch::new();
        let cache = Cache::new(scratch.path(), "https://ca.test/");
        cache.create().unwrap();
        let (responder, answers) = responder();
        let path = "/.well-known/acme-challenge/tok";
        assert_eq!(answers.get(path), None);
        let published = responder.publish(&cache, http("tok")).await.unwrap();
        assert_eq!(answers.get(path).as_deref(), Some("tok.thumb"));
        for other in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/other",
            "/.well-known/acme-challenge/tok/",
            "/.well-known/acme-challenge/../tok",
            "/tok",
            "",
        ] {
            assert_eq!(answers.get(other), None, "{other}");
        }
        // Its file is read back by the poll of the cache, and stays this order's.
        responder.set_others(cache.challenges(std::time::SystemTime::now()).0);
        responder.set_others(Vec::new());
        assert!(answers.get(path).is_some());
        drop(published);
        assert_eq!(answers.get(path), None);
        assert!(!answers.is_any.load(Ordering::Relaxed));
        assert_eq!(cache.challenges(std::time::SystemTime::now()).0, []);
    }

    #[tokio::test]
    async fn order_replaces_what_a_process_that_died_has_left_behind() {
        let scratch = Scratch::new();
        let cache = Cache::new(scratch.path(), "https://ca.test/");
        cache.create().unwrap();
        let (responder, answers) = responder();
        let left_behind = ChallengeFile::Http {
            token: "tok".to_owned(),
            answer: "old".to_owned(),
        };
        responder.set_others(vec![left_behind.clone()]);
        let published = responder.publish(&cache, http("tok")).await.unwrap();
        let own = cache.challenges(std::time::SystemTime::now()).0;
        for seen in [vec![left_behind.clone()], own, vec![left_behind], vec![]] {
            responder.set_others(seen);
            let answer = answers.get("/.well-known/acme-challenge/tok");
            assert_eq!(answer.as_deref(), Some("tok.thumb"));
        }
        drop(published);
        assert_eq!(answers.get("/.well-known/acme-challenge/tok"), None);
    }

    #[test]
    fn challenges_of_others_are_answered_until_they_are_gone() {
        let (responder, answers) = responder();
        let broken = ChallengeFile::Alpn {
            domain: "a.test".to_owned(),
            pem: "half".to_owned(),
        };
        responder.set_others(vec![broken, http("one"), http("two")]);
        assert!(answers.get("/.well-known/acme-challenge/one").is_some());
        responder.set_others(vec![http("two")]);
        assert_eq!(answers.get("/.well-known/acme-challenge/one"), None);
        assert!(answers.get("/.well-known/acme-challenge/two").is_some());
    }

    #[test]
    fn number_of_answers_is_bounded() {
        let (responder, answers) = responder();
        responder.set_others((0..1000).map(|at| http(&format!("t{at}"))).collect());
        assert_eq!(answers.by_token.lock().len(), ANSWERS_MAX);
    }

    #[tokio::test]
    async fn token_that_is_no_file_name_is_refused() {
        let scratch = Scratch::new();
        let cache = Cache::new(scratch.path(), "https://ca.test/");
        cache.create().unwrap();
        let (responder, _) = responder();
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        for token in ["", "../escape", "a/b", "a.b", "a b", &long] {
            let refused = responder.publish(&cache, http(token)).await;
            assert!(refused.is_err(), "{token}");
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
