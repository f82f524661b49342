//! Login expiry: closes the sockets and event streams of logins that have ended.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::Guard;
use tokio::time::Instant;

use super::running::Gateway;
use crate::auth::Login;
use crate::database::StoreError;
use crate::http::event_streams::EventStreams;
use crate::pace::Pace;
use crate::services::next_after;
use crate::websocket::{Cause, Ending, SocketHandle};

/// The number of sessions that one query checks.
const LOOKED_AT_ONCE: usize = 1000;

impl Gateway {
    /// Checks the logins of open sockets and event streams every `session.check_interval`. A logout
    /// in this process takes effect at once.
    ///
    /// A socket depends on the session or the token that it was opened with. It is closed with
    /// 4401, and an event stream ends, when the session or its user is deleted, when the password
    /// changes, or when the token expires. While a store is unavailable, no socket is closed.
    pub fn watch_logins(&self) {
        let gateway = self.clone();
        let tasks = self.services().tasks.clone();
        self.services().tasks.spawn("logins", async move {
            let mut changed = gateway.services().settings_changed();
            let mut checked = Instant::now();
            loop {
                // Loaded as a clone: the task waits with it until the settings are replaced.
                let settings = Guard::into_inner(gateway.services().settings());
                tokio::select! {
                    keys = settings.auth.until_logged_out() => {
                        let is_over = |login: &Login| {
                            matches!(login, Login::Session { key, .. } if keys.contains(key))
                        };
                        gateway.close_logins(is_over).await;
                    }
                    () = next_after(checked, settings.check_interval) => {
                        checked = Instant::now();
                        gateway.services().evict_expired();
                        // The store logs its failure; the next interval tries again.
                        let _ = gateway.close_ended_logins().await;
                    }
                    _ = changed.changed() => {}
                    () = tasks.stopping() => return,
                }
            }
        });
    }

    /// Checks all logins once.
    async fn close_ended_logins(&self) -> Result<(), StoreError> {
        let mut logins: HashSet<Arc<Login>> = self.sockets().logins();
        logins.extend(self.services().shared::<EventStreams>().logins());
        let now = SystemTime::now();
        let mut ended: HashSet<&Login> = HashSet::new();
        let mut sessions: BTreeSet<(&str, &str, bool)> = BTreeSet::new();
        for login in &logins {
            match &**login {
                Login::Token { expires_at } if *expires_at <= now => {
                    ended.insert(login);
                }
                Login::Token { .. } => {}
                Login::Session {
                    key,
                    user_id,
                    is_staff,
                } => {
                    sessions.insert((key, user_id, *is_staff));
                }
            }
        }
        let settings = Guard::into_inner(self.services().settings());
        let sessions: Vec<(&str, &str, bool)> = sessions.into_iter().collect();
        let mut gone: HashSet<(&str, &str, bool)> = HashSet::new();
        let mut outcome = Ok(());
        for some in sessions.chunks(LOOKED_AT_ONCE) {
            match settings.auth.ended(&settings.sessions, some).await {
                Ok(are_ended) => {
                    let some = some.iter().copied().zip(are_ended);
                    gone.extend(some.filter_map(|(login, is_ended)| is_ended.then_some(login)));
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        let is_over = |login: &Login| match login {
            Login::Session {
                key,
                user_id,
                is_staff,
            } => gone.contains(&(&**key, &**user_id, *is_staff)),
            Login::Token { .. } => ended.contains(login),
        };
        if !(gone.is_empty() && ended.is_empty()) {
            self.close_logins(is_over).await;
        }
        outcome
    }

    async fn close_logins(&self, is_over: impl Fn(&Login) -> bool) {
        self.services().shared::<EventStreams>().end(&is_over);
        let ending = Ending::of(Cause::SessionEnded);
        let which = |handle: &SocketHandle| handle.login().is_some_and(|login| is_over(login));
        self.sockets().end(which, &ending, &Pace::AT_ONCE).await;
    }
}
