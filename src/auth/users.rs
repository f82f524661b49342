//! Users: the table of users, our own or a Django project's.

use std::collections::HashMap;
use std::sync::Arc;

use super::User;
use crate::config::{AuthConfig, DjangoUsersConfig, IdType, SessionConfig};
use crate::database::{Bind, Database, Dialect, Row, StoreError};
use crate::secrets;
use crate::session::{read_chunks, unix_seconds};
use crate::ttl_cache::TtlCache;

/// The longest name, as Django's.
const NAME_CHARACTERS_MAX: usize = 150;

/// The name of our own table.
const OWN_TABLE: &str = "oneport_user";

/// A table of users (cheap to clone).
#[derive(Clone, Debug)]
pub struct Users(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Database,
    is_own: bool,
    id_type: IdType,
    /// The start of a query for rows, up to `FROM table`.
    select: String,
    id: String,
    username: String,
    cache: TtlCache<String, Option<Arc<Account>>>,
}

/// A row of the table.
#[derive(Clone)]
pub struct Account {
    /// The user.
    pub user: Arc<User>,
    /// Whether the user may log in.
    pub is_active: bool,
    /// The password, encoded and hashed.
    pub(super) password: String,
    /// The value that sessions hold a hash of: it changes with the password.
    pub(super) stamp: String,
}

impl std::fmt::Debug for Account {
    /// Hides the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account")
            .field("user", &self.user)
            .field("is_active", &self.is_active)
            .finish_non_exhaustive()
    }
}

impl Users {
    /// Returns the table of a configuration.
    pub(crate) fn new(config: &AuthConfig, session: &SessionConfig, database: Database) -> Self {
        let is_own = !config.users.is_django();
        let own = DjangoUsersConfig {
            table: OWN_TABLE.to_owned(),
            ..DjangoUsersConfig::default()
        };
        let table = if is_own { &own } else { &config.django };
        let stamp = if is_own { "stamp" } else { &table.password };
        let dialect = database.dialect();
        let (text, integer) = (dialect.text(), dialect.integer());
        let quoted = |identifier: &str| dialect.quoted(identifier);
        let flag = |column: &str, without: &str| match column {
            "" => without.to_owned(),
            column => format!("CAST(CAST({} AS {integer}) AS {text})", quoted(column)),
        };
        let select = format!(
            "SELECT CAST({} AS {text}), {}, {}, {}, {}, {} FROM {}",
            quoted(&table.id),
            quoted(&table.username),
            quoted(&table.password),
            quoted(stamp),
            flag(&table.is_active, "'1'"),
            flag(&table.is_staff, "'0'"),
            quoted(&table.table),
        );
        Self(Arc::new(Shared {
            is_own,
            id_type: table.id_type,
            select,
            id: quoted(&table.id),
            username: quoted(&table.username),
            cache: TtlCache::new(session.cache),
            database,
        }))
    }

    /// Returns whether the table is our own, which the server may change.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.0.is_own
    }

    /// Returns the database that has the table.
    pub(crate) fn database(&self) -> &Database {
        &self.0.database
    }

    /// Evicts rows that were read too long ago to be used again.
    pub(crate) fn evict_expired(&self) {
        self.0.cache.evict_expired();
    }

    /// Opens the database.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.0.database.ready().await
    }

    /// Returns the user with an id; a recently read row may be used again.
    pub async fn find(&self, id: &str) -> Result<Option<Arc<Account>>, StoreError> {
        if let Some(account) = self.0.cache.get(id) {
            return Ok(account);
        }
        let before = self.0.cache.generation(id);
        let account = self.find_many(&[id]).await?.remove(id);
        self.0.cache.insert(id.to_owned(), account.clone(), before);
        Ok(account)
    }

    /// Returns the users with these ids, read now.
    pub async fn find_many(
        &self,
        ids: &[&str],
    ) -> Result<HashMap<String, Arc<Account>>, StoreError> {
        let Shared {
            database,
            id,
            select,
            id_type,
            ..
        } = &*self.0;
        let ids: Vec<String> = ids.iter().filter_map(|id| self.written_id(id)).collect();
        let cast = match (id_type, database.dialect()) {
            (IdType::Integer, Dialect::Mysql) => Some("SIGNED"),
            (IdType::Integer, Dialect::Sqlite | Dialect::Postgres) => Some("BIGINT"),
            (IdType::Uuid, Dialect::Postgres) => Some("uuid"),
            // In MariaDB a uuid column also takes the digits.
            (IdType::Uuid | IdType::Text, _) => None,
        };
        let sql = |places: &[String]| {
            let places: Vec<String> = places
                .iter()
                .map(|place| match cast {
                    Some(to) => format!("CAST({place} AS {to})"),
                    None => place.clone(),
                })
                .collect();
            format!("{select} WHERE {id} IN ({})", places.join(", "))
        };
        let rows = read_chunks(database, &ids, &[], sql).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| self.account(row))
            .map(|account| (account.user.id.clone(), Arc::new(account)))
            .collect())
    }

    /// Returns the user with a name, read now.
    pub async fn find_by_name(&self, name: &str) -> Result<Option<Account>, StoreError> {
        let sql = format!("{} WHERE {} = $1", self.0.select, self.0.username);
        let rows = self.0.database.fetch(&sql, &[Bind::Text(name)]).await?;
        Ok(rows.into_iter().find_map(|row| self.account(row)))
    }

    /// Forgets the cached row of a user.
    pub(super) fn forget(&self, id: &str) {
        self.0.cache.remove(id);
    }

    /// Returns some user's encoded password. A wrong name is checked against it, so that it takes
    /// as long as a wrong password.
    pub(super) async fn some_password(&self) -> Result<Option<String>, StoreError> {
        let sql = format!("{} LIMIT 20", self.0.select);
        let rows = self.0.database.fetch(&sql, &[]).await?;
        let mut accounts = rows.into_iter().filter_map(|row| self.account(row));
        Ok(accounts
            .find(|account| !account.password.starts_with('!'))
            .map(|account| account.password))
    }

    /// Returns all users, by name.
    pub async fn list(&self) -> Result<Vec<Account>, StoreError> {
        let sql = format!("{} ORDER BY {}", self.0.select, self.0.username);
        let rows = self.0.database.fetch(&sql, &[]).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| self.account(row))
            .collect())
    }

    /// Adds a user with an encoded password. Fails with [`StoreError::Taken`] if the name exists.
    pub async fn add(&self, name: &str, encoded: &str, is_staff: bool) -> Result<(), StoreError> {
        self.own()?;
        let binds = [
            Bind::Text(name),
            Bind::Text(encoded),
            Bind::Text(&secrets::random(16)),
            Bind::Integer(is_staff.into()),
            Bind::Integer(unix_seconds()),
        ];
        let flag = if self.0.database.dialect() == Dialect::Postgres {
            "CAST(CAST($4 AS INTEGER) AS BOOLEAN)"
        } else {
            "$4"
        };
        let sql = format!(
            "INSERT INTO {OWN_TABLE} (username, password, stamp, is_staff, created_at) VALUES ($1, $2, $3, {flag}, $5) \
             ON CONFLICT (username) DO NOTHING"
        );
        match self.0.database.execute(&sql, &binds).await? {
            0 => Err(StoreError::Taken(name.to_owned())),
            _ => Ok(()),
        }
    }

    /// Sets another password, encoded; ends all logins of the user. Returns whether there is such a
    /// user.
    pub async fn set_password(&self, name: &str, encoded: &str) -> Result<bool, StoreError> {
        self.own()?;
        let binds = [
            Bind::Text(name),
            Bind::Text(encoded),
            Bind::Text(&secrets::random(16)),
        ];
        let sql = format!("UPDATE {OWN_TABLE} SET password = $2, stamp = $3 WHERE username = $1");
        let is_changed = self.0.database.execute(&sql, &binds).await? > 0;
        self.0.cache.clear();
        Ok(is_changed)
    }

    /// Writes the same password with another encoding; logins remain. A password that was changed
    /// in the meantime is left unchanged.
    pub(super) async fn rehash(&self, account: &Account, encoded: &str) -> Result<(), StoreError> {
        self.own()?;
        let binds = [
            Bind::Text(&account.user.name),
            Bind::Text(encoded),
            Bind::Text(&account.password),
        ];
        let sql =
            format!("UPDATE {OWN_TABLE} SET password = $2 WHERE username = $1 AND password = $3");
        self.0.database.execute(&sql, &binds).await.map(drop)
    }

    /// Removes a user and ends all logins. Returns whether there was such a user.
    pub async fn remove(&self, name: &str) -> Result<bool, StoreError> {
        self.own()?;
        let sql = format!("DELETE FROM {OWN_TABLE} WHERE username = $1");
        let is_removed = self.0.database.execute(&sql, &[Bind::Text(name)]).await? > 0;
        self.0.cache.clear();
        Ok(is_removed)
    }

    fn own(&self) -> Result<(), StoreError> {
        if self.0.is_own {
            Ok(())
        } else {
            Err(StoreError::ReadOnly)
        }
    }

    fn account(&self, row: Row) -> Option<Account> {
        let mut columns = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || columns.next();
        let (id, name, password) = (next()?, next()?, next()?);
        let (stamp, is_active, is_staff) = (next()?, next()?, next()?);
        Some(Account {
            user: Arc::new(User {
                id: self.shown_id(id),
                name,
                is_staff: is_staff == "1",
            }),
            is_active: is_active == "1",
            password,
            stamp,
        })
    }

    /// Returns an id as the table writes it; `None` for a text that cannot be an id.
    fn written_id(&self, id: &str) -> Option<String> {
        match self.0.id_type {
            IdType::Integer => id.parse::<i64>().ok().map(|id| id.to_string()),
            IdType::Text => Some(id.to_owned()),
            IdType::Uuid => {
                let digits: String = id.chars().filter(|found| *found != '-').collect();
                let is_uuid =
                    digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_uuid.then(|| digits.to_ascii_lowercase())
            }
        }
    }

    /// Returns an id as sessions write it.
    fn shown_id(&self, id: String) -> String {
        if self.0.id_type == IdType::Uuid && id.len() == 32 && id.is_ascii() {
            return [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
        }
        id
    }
}

/// Returns an error message for an invalid name of a new user.
#[must_use]
pub fn name_problem(name: &str) -> Option<String> {
    let count = name.chars().count();
    if !(1..=NAME_CHARACTERS_MAX).contains(&count) {
        return Some(format!(
            "expected a name of 1 to {NAME_CHARACTERS_MAX} characters, found {count}"
        ));
    }
    if name.chars().any(char::is_control) || name.trim() != name {
        return Some(format!(
            "expected a name without control characters and without spaces around it, found {name:?}"
        ));
    }
    None
}
