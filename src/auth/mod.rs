//! Auth: identifies the user of a scope: users, passwords, logins, tokens and tickets.

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
pub(crate) use tickets::PassedTicket;
pub use users::{Account, Users, name_problem};

/// A person who is logged in.
///
/// The server puts one into [`Scope::user`](crate::scope::Scope::user); the test kit can do the
/// same. For an anonymous visitor that field is `None`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct User {
    /// The primary key as text; a number or a UUID in most databases.
    pub id: String,
    /// The name that others see.
    pub name: String,
    /// Whether the user may see the pages for staff.
    pub is_staff: bool,
}

/// The login that identifies a scope's user: when it ends, the user's open sockets close.
#[derive(Clone, Eq, Hash, PartialEq)]
pub enum Login {
    /// A session: it may be ended elsewhere, and its user may be removed or get another password.
    Session {
        /// The session's key.
        key: Arc<str>,
        /// The user's id.
        user_id: Box<str>,
        /// Whether the user was staff.
        is_staff: bool,
    },
    /// A token.
    Token {
        /// When it expires.
        expires_at: SystemTime,
    },
}

impl std::fmt::Debug for Login {
    /// Hides the key.
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
    /// The backend that checked the password.
    pub const BACKEND: &str = "_auth_user_backend";
    /// A hash that changes with the password.
    pub const HASH: &str = "_auth_user_hash";
}

/// The backend in sessions of our own logins, in place of the path of a Django backend.
pub const BACKEND: &str = "oneport";
