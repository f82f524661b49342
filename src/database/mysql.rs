//! MySQL and MariaDB: connects to a Django project's database and reads it.

use std::str::FromStr;

use sqlx::mysql::{MySqlArguments, MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, MySql, Row as _, SqlSafeStr};

use super::placeholders::{missing_value, replace_placeholders};
use super::{Bind, DatabaseSettings, Row};

/// Prepares a pool without opening a connection.
pub(super) fn pool(url: &str, settings: DatabaseSettings) -> Result<MySqlPool, sqlx::Error> {
    let options = MySqlConnectOptions::from_str(url)?
        .charset("utf8mb4")
        // Keeps the server's SQL modes and time zone: no query depends on them.
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .disable_statement_logging();
    Ok(MySqlPoolOptions::new()
        .acquire_timeout(settings.timeout)
        .max_connections(settings.connections)
        .test_before_acquire(false)
        .after_connect(|connection, _| {
            Box::pin(async move {
                let sql = "SET SESSION TRANSACTION READ ONLY";
                connection.execute(sql).await.map(drop)
            })
        })
        .connect_lazy_with(options))
}

/// Fetches rows.
pub(super) async fn fetch(
    pool: &MySqlPool,
    sql: &str,
    binds: &[Bind<'_>],
) -> Result<Vec<Row>, sqlx::Error> {
    let (sql, values) = numbered(sql, binds)?;
    // The SQL is ours; all outside values are bound.
    let mut query: Query<'_, MySql, MySqlArguments> =
        sqlx::query(AssertSqlSafe(sql).into_sql_str());
    for bind in values {
        query = match bind {
            Bind::Text(text) => query.bind(text),
            Bind::Integer(number) => query.bind(number),
        };
    }
    let rows = query.fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            // A collation such as utf8mb4_bin makes text look like bytes.
            let column = |at| row.try_get_unchecked(at);
            (0..row.len()).map(column).collect()
        })
        .collect()
}

/// Replaces the placeholders with `?` and returns the values in the order of the placeholders.
fn numbered<'b>(sql: &str, binds: &[Bind<'b>]) -> Result<(String, Vec<Bind<'b>>), sqlx::Error> {
    let mut values = Vec::with_capacity(binds.len());
    let sql = replace_placeholders(sql, |sql, index| {
        let bind = binds
            .get(index)
            .ok_or_else(|| missing_value(index, binds.len()))?;
        values.push(*bind);
        sql.push('?');
        Ok(())
    })?;
    Ok((sql, values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_become_question_marks_with_values_in_order() {
        let binds = [Bind::Integer(1), Bind::Text("two")];
        let (sql, values) = numbered("`a$1` = $2 AND b IN ($1, $2)", &binds).unwrap();
        assert_eq!(sql, "`a$1` = ? AND b IN (?, ?)");
        assert!(matches!(
            values[..],
            [Bind::Text("two"), Bind::Integer(1), Bind::Text("two")]
        ));
        assert!(numbered("$3", &binds).is_err());
    }
}
