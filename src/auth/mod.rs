//! Users: who a scope belongs to.

use serde::Serialize;

/// A person who is logged in.
///
/// The server puts one into [`Scope::user`](crate::scope::Scope::user); the test kit can do the same. An anonymous visitor
/// is no user: the scope's place is empty.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct User {
    /// The primary key as text; a number or a UUID in most databases.
    pub id: String,
    /// The name that others see.
    pub name: String,
    /// May this user see the pages for staff?
    pub is_staff: bool,
}
