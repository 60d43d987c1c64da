//! Browser sessions, by the hash of their cookie.

use tidings_event::TenantId;

use crate::pool::{Columns, Connections, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, parsed};

/// A session as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// SHA-256 of the cookie's value, in hexadecimal digits.
    pub hash: String,
    /// Whom it acts for; `None` for an operator.
    pub tenant: Option<TenantId>,
    /// The `sub` of the token it was made with.
    pub subject: String,
    /// `USER`, `ADMIN` or `OPERATOR`.
    pub role: String,
    /// When it ends, in milliseconds since 1970.
    pub expires_at_ms: i64,
}

/// The methods on sessions.
#[derive(Debug, Clone, Copy)]
pub struct Sessions<'a> {
    connections: &'a Connections,
}

impl<'a> Sessions<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// Keeps a new session, and forgets those that have ended, and of the same subject of the same tenant those that end
    /// first where it would have more than `most`.
    pub async fn insert(&self, row: &SessionRow, most: u16, now_ms: i64) -> Result<(), StoreError> {
        let beyond = "DELETE FROM sessions WHERE hash IN (SELECT hash FROM sessions \
             WHERE subject = $1 AND COALESCE(tenant, '') = $2 \
             ORDER BY expires_at_ms DESC, hash LIMIT 1000 OFFSET $3)";
        let query = "INSERT INTO sessions (hash, tenant, subject, role, expires_at_ms, crc) \
             VALUES ($1, $2, $3, $4, $5, $6)";
        writing_on_either!(self.connections, "keep a session", connection => {
            sqlx::query("DELETE FROM sessions WHERE expires_at_ms <= $1")
                .bind(now_ms)
                .execute(&mut *connection)
                .await?;
            sqlx::query(beyond)
                .bind(&row.subject)
                .bind(row.tenant.as_ref().map_or("", TenantId::as_str))
                .bind(i64::from(most.saturating_sub(1)))
                .execute(&mut *connection)
                .await?;
            sqlx::query(query)
                .bind(&row.hash)
                .bind(row.tenant.as_ref().map(TenantId::as_str))
                .bind(&row.subject)
                .bind(&row.role)
                .bind(row.expires_at_ms)
                .bind(row.seal())
                .execute(&mut *connection)
                .await
                .map(drop)
        })
    }

    /// The session of this hash, ended or not.
    pub async fn get(&self, hash: &str) -> Result<Option<SessionRow>, StoreError> {
        on_either!(self.connections, "read a session", connection => {
            sqlx::query("SELECT * FROM sessions WHERE hash = $1")
                .bind(hash)
                .fetch_optional(connection)
                .await
                .map(|row| row.as_ref().map(SessionRow::from_row))
        })?
        .transpose()
    }

    /// Ends a session. False when there was none.
    pub async fn delete(&self, hash: &str) -> Result<bool, StoreError> {
        writing_on_either!(self.connections, "end a session", connection => {
            sqlx::query("DELETE FROM sessions WHERE hash = $1")
                .bind(hash)
                .execute(connection)
                .await
                .map(|done| done.rows_affected() == 1)
        })
    }
}

impl Sealed for SessionRow {
    const TABLE: &'static str = "sessions";
    const ALL: &'static str = "SELECT * FROM sessions";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(&self.hash);
        let seal = seal.maybe(self.tenant.as_ref().map(TenantId::as_str), Seal::text);
        let seal = seal.text(&self.subject).text(&self.role);
        seal.number(self.expires_at_ms).finish()
    }

    /// The hash leads to nothing, but is nobody's business in a log either.
    fn name(&self) -> String {
        self.hash.chars().take(8).collect()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a session");
        let tenant = row.optional_text("tenant").map_err(unread())?;
        Ok(Self {
            hash: row.text("hash").map_err(unread())?,
            tenant: tenant
                .map(|_| parsed(row, "of a session", "tenant"))
                .transpose()?,
            subject: row.text("subject").map_err(unread())?,
            role: row.text("role").map_err(unread())?,
            expires_at_ms: row.integer("expires_at_ms").map_err(unread())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::on_each_database;

    #[tokio::test]
    async fn a_session_is_kept_until_it_is_deleted_or_another_begins_after_its_end() {
        on_each_database(async |store| {
            let row = |hash: &str, expires_at_ms: i64| SessionRow {
                hash: hash.into(),
                tenant: Some("acme".parse().unwrap()),
                subject: "ada".into(),
                role: "USER".into(),
                expires_at_ms,
            };
            let sessions = store.sessions();
            sessions.insert(&row("one", 10), 9, 1).await.unwrap();
            let operator = SessionRow {
                tenant: None,
                ..row("two", 90)
            };
            sessions.insert(&operator, 9, 1).await.unwrap();
            assert_eq!(sessions.get("one").await.unwrap(), Some(row("one", 10)));
            assert_eq!(sessions.get("two").await.unwrap(), Some(operator));
            sessions.insert(&row("three", 90), 9, 10).await.unwrap();
            assert_eq!(sessions.get("one").await.unwrap(), None);
            assert!(sessions.delete("two").await.unwrap());
            assert!(!sessions.delete("two").await.unwrap());
        })
        .await;
    }

    #[tokio::test]
    async fn of_too_many_sessions_of_one_those_are_forgotten_that_end_first() {
        on_each_database(async |store| {
            let row = |hash: &str, tenant: &str, subject: &str, expires_at_ms: i64| SessionRow {
                hash: hash.into(),
                tenant: tenant.parse().ok(),
                subject: subject.into(),
                role: "USER".into(),
                expires_at_ms,
            };
            let rows = [
                row("first", "acme", "ada", 20),
                row("second", "acme", "ada", 10),
                row("other", "acme", "bob", 10),
                row("foreign", "globex", "ada", 10),
                row("operator", "", "ada", 10),
                row("third", "acme", "ada", 30),
                row("fourth", "acme", "ada", 5),
            ];
            let sessions = store.sessions();
            for row in &rows {
                sessions.insert(row, 2, 1).await.unwrap();
            }
            let mut left = Vec::new();
            for row in &rows {
                left.extend(sessions.get(&row.hash).await.unwrap().map(|row| row.hash));
            }
            assert_eq!(left, ["other", "foreign", "operator", "third", "fourth"]);
        })
        .await;
    }
}
