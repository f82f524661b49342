//! Auth: who a scope belongs to: users, passwords, logins, and the tokens that stand for them.

mod authentication;
pub mod bearer;
pub mod forward;
mod hashing_queue;
pub mod login_rate_limit;
pub mod password;
mod tickets;
mod users;

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

pub use authentication::{Auth, Identified};
pub use users::{Account, Users, name_problem};

/// A person who is logged in.
///
/// The server puts one into [`Scope::user`](crate::scope::Scope::user); the test kit can do the
/// same. An anonymous visitor is no user: the scope's place is empty.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct User {
    /// The primary key as text; a number or a UUID in most databases.
    pub id: String,
    /// The name that others see.
    pub name: String,
    /// May this user see the pages for staff?
    pub is_staff: bool,
}

/// What a scope's user rests on: with its end the user's live sockets end.
#[derive(Clone, Eq, Hash, PartialEq)]
pub enum Login {
    /// A session: it may be ended elsewhere, its user may go or get another password.
    Session {
        /// The session's key.
        key: Arc<str>,
        /// The user's id.
        user_id: Box<str>,
        /// Was it staff?
        is_staff: bool,
    },
    /// A token.
    Token {
        /// When it expires.
        expires_at: SystemTime,
    },
}

impl std::fmt::Debug for Login {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Session { user_id, .. } => write!(f, "Session({user_id})"),
            Self::Token { expires_at } => write!(f, "Token({expires_at:?})"),
        }
    }
}

/// The values of a session that hold a login: Django's names.
pub mod session_key {
    /// The user's id, as text.
    pub const USER_ID: &str = "_auth_user_id";
    /// What checked the password.
    pub const BACKEND: &str = "_auth_user_backend";
    /// A hash that changes with the password.
    pub const HASH: &str = "_auth_user_hash";
}

/// What stands in a session for our own login, where Django has the path of a backend.
pub const BACKEND: &str = "oneport";
