//! State: the values that an application shares with its views, consumers, middleware and
//! background tasks, one of each type.

use std::any::{Any, TypeId, type_name};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// An application's state (cheap to clone): one value of each type, registered with
/// `Registry::state` before the server starts.
///
/// ```
/// use oneport::state::State;
///
/// struct Pool(&'static str);
///
/// let mut state = State::default();
/// state.insert(Pool("postgres"));
/// assert_eq!(state.get::<Pool>()?.0, "postgres");
/// assert!(state.get::<String>().is_err());
/// # Ok::<(), oneport::state::MissingState>(())
/// ```
#[derive(Clone, Default)]
pub struct State(Arc<BTreeMap<TypeId, Value>>);

#[derive(Clone)]
struct Value {
    name: &'static str,
    value: Arc<dyn Any + Send + Sync>,
}

/// A type of state, for the `STATE` of a view, a consumer or middleware: what must be registered
/// before the server starts.
///
/// ```
/// use oneport::state::StateType;
///
/// struct Pool;
///
/// const NEEDED: &[StateType] = &[StateType::of::<Pool>()];
/// assert!(NEEDED[0].to_string().ends_with("Pool"));
/// ```
#[derive(Clone, Copy)]
pub struct StateType {
    id: fn() -> TypeId,
    name: fn() -> &'static str,
}

/// The error for a type without a registered value. It converts to a `Failure` or a `Denial` with
/// 500, or a `Close` with 1011, and the log gets its message.
#[derive(Debug, Error)]
#[error("no application state of type {type_name}; register it with Registry::state")]
pub struct MissingState {
    type_name: &'static str,
}

impl State {
    /// Adds a value. Replaces an earlier value of the same type.
    pub fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        let value = Value {
            name: type_name::<T>(),
            value: Arc::new(value),
        };
        Arc::make_mut(&mut self.0).insert(TypeId::of::<T>(), value);
    }

    /// Returns the value of a type.
    pub fn get<T: Send + Sync + 'static>(&self) -> Result<&T, MissingState> {
        let found = self.0.get(&TypeId::of::<T>());
        found
            .and_then(|found| found.value.downcast_ref())
            .ok_or_else(MissingState::of::<T>)
    }

    /// Returns whether a value of a type is registered.
    #[must_use]
    pub fn has(&self, wanted: StateType) -> bool {
        self.0.contains_key(&(wanted.id)())
    }

    /// Returns whether no value is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl StateType {
    /// Returns the type `T`.
    #[must_use]
    pub const fn of<T: Send + Sync + 'static>() -> Self {
        Self {
            id: TypeId::of::<T>,
            name: type_name::<T>,
        }
    }
}

impl MissingState {
    pub(crate) fn of<T>() -> Self {
        Self {
            type_name: type_name::<T>(),
        }
    }
}

/// Shows only the types, because values may contain secrets.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.values().map(|value| value.name))
            .finish()
    }
}

impl fmt::Display for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str((self.name)())
    }
}

impl fmt::Debug for StateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
