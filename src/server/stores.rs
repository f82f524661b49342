//! Stores: opens those of sessions and users, at start and at a reload.

use crate::config::{Config, StoreUrl};
use crate::database::diagnose;
use crate::services::{Settings, StoreFailure};

/// Opens the store of sessions and the table of users, as far as they are asked for. A database
/// server may come up later: until then, requests that need it get 503.
pub(super) async fn open_stores(
    config: &Config,
    settings: &Settings,
    (opens_sessions, opens_users): (bool, bool),
) -> Result<(), StoreFailure> {
    let sessions = async {
        match opens_sessions {
            true => settings.sessions.ready().await,
            false => Ok(()),
        }
    };
    let users = async {
        match settings.auth.users().filter(|_| opens_users) {
            Some(users) => users.ready().await,
            None => Ok(()),
        }
    };
    let (sessions, users) = tokio::join!(sessions, users);
    for (key, url, opened) in [
        ("session.store", &config.session.store, sessions),
        ("auth.users", &config.auth.users, users),
    ] {
        match opened {
            Err(error) if matches!(url, StoreUrl::Sqlite(_) | StoreUrl::DjangoSqlite(_)) => {
                let sentence = diagnose(key, url, &error).await;
                return Err(StoreFailure { key, sentence });
            }
            Err(error) => {
                let cause = diagnose(key, url, &error).await;
                let cause = cause.trim_start_matches(key).trim_start_matches(": ");
                tracing::warn!(store = %url, "{key} unavailable: {cause}; requests that need it get 503");
            }
            Ok(()) => {}
        }
    }
    // Last, so that no key file is written if the stores fail to open.
    let _ = settings.secrets.key();
    Ok(())
}
