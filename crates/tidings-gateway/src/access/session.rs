//! Browser sessions: a bearer token exchanged for a cookie that can be revoked.
//!
//! The cookie is 32 random bytes and says nothing; the store has its hash and whom it stands for. It is
//! looked up there for each request: people with browsers ask seldom, and a revoked session is then refused at
//! every replica from the moment its revocation is durable.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use tidings_store::{SessionRow, Store};
use zeroize::Zeroizing;

use super::Access;
use super::caller::{Caller, Principal};
use super::token::Unauthenticated;
use crate::publish::refusal::{Refusal, Rule};
use crate::secrets::random;
use crate::storing::store_fault;

/// The longest that a session lasts, in ms: 12 h.
pub(super) const LONGEST_MS: i64 = 12 * 60 * 60 * 1000;
/// So many has one person at once; where another begins, the one that would end first ends. Refused instead, whoever has
/// lost cookies would wait for their end.
const MOST_OF_ONE: u16 = 100;
/// A cookie's value: 32 bytes in base64url.
const LENGTH: usize = 43;

/// The sessions of all tenants.
pub struct Sessions {
    store: Store,
}

/// A session that has just begun.
pub struct NewSession {
    /// The cookie's value; it is nowhere else.
    pub cookie: Zeroizing<String>,
    /// When it ends, in ms since 1970.
    pub expires_at_ms: i64,
}

impl Sessions {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Begins a session for a person, never longer than `until_ms`, where its token ends.
    async fn begin(
        &self,
        caller: &Caller,
        until_ms: i64,
        now_ms: i64,
    ) -> Result<NewSession, Refusal> {
        let (subject, role) = match caller.principal() {
            Principal::User(sub) if caller.is_admin() => (sub, "ADMIN"),
            Principal::User(sub) => (sub, "USER"),
            Principal::Operator(sub) => (sub, "OPERATOR"),
            _ => {
                return Err(Refusal::forbidden(format!(
                    "{} needs no session; sessions are for people, who have tokens of users and operators.",
                    caller.describe()
                )));
            }
        };
        let cookie = Zeroizing::new(URL_SAFE_NO_PAD.encode(random::<32>()));
        let row = SessionRow {
            hash: hash_of(&cookie),
            tenant: caller.tenant().cloned(),
            subject: subject.clone(),
            role: role.to_owned(),
            expires_at_ms: until_ms.min(now_ms.saturating_add(LONGEST_MS)),
        };
        let kept = self
            .store
            .sessions()
            .insert(&row, MOST_OF_ONE, now_ms)
            .await;
        kept.map_err(store_fault)?;
        tracing::info!(by = caller.describe(), "session begun");
        Ok(NewSession {
            cookie,
            expires_at_ms: row.expires_at_ms,
        })
    }

    /// Whose session this is.
    pub async fn authenticate(&self, cookie: &str, now_ms: i64) -> Result<Caller, Refusal> {
        let row = if cookie.len() == LENGTH {
            let row = self.store.sessions().get(&hash_of(cookie)).await;
            row.map_err(store_fault)?
        } else {
            None
        };
        let in_force = row.filter(|row| row.expires_at_ms > now_ms);
        let caller = in_force.and_then(|row| match (row.role.as_str(), row.tenant) {
            ("OPERATOR", None) => Some(Caller::new(Principal::Operator(row.subject), None, false)),
            (role @ ("ADMIN" | "USER"), Some(tenant)) => {
                let user = Principal::User(row.subject);
                Some(Caller::new(user, Some(tenant), role == "ADMIN"))
            }
            _ => None,
        });
        caller.ok_or_else(|| unauthenticated(Unauthenticated::Session))
    }

    /// Ends a session. Nothing happens when it has ended already.
    pub async fn end(&self, cookie: &str) -> Result<(), Refusal> {
        let ended = self.store.sessions().delete(&hash_of(cookie)).await;
        ended.map(drop).map_err(store_fault)
    }
}

impl Access {
    /// Exchanges the token of an `Authorization` header for a session.
    pub async fn begin_session(
        &self,
        authorization: Option<&str>,
        now_ms: i64,
    ) -> Result<NewSession, Refusal> {
        let verified = self.verified(authorization, now_ms).await;
        let verified = verified.map_err(unauthenticated)?;
        let sessions = &self.sessions;
        sessions
            .begin(&verified.caller, verified.until_ms, now_ms)
            .await
    }
}

fn unauthenticated(why: Unauthenticated) -> Refusal {
    use tidings_event::Code;
    Refusal::new(Code::Unauthenticated, Rule::Authentication, why.to_string())
}

/// With so much randomness in the cookie a plain hash is a safe one.
fn hash_of(cookie: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(cookie).into();
    let (high, low) = digest.split_at(16);
    let half = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0, |sum, byte| sum << 8 | u128::from(*byte))
    };
    format!("{:032x}{:032x}", half(high), half(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn caller(principal: Principal, admin: bool) -> Caller {
        let tenant = match principal {
            Principal::Operator(_) => None,
            _ => Some("acme".parse().unwrap()),
        };
        Caller::new(principal, tenant, admin)
    }

    #[tokio::test]
    async fn a_session_stands_for_its_maker_until_its_end() {
        let sessions = Sessions::new(Store::in_memory().await.unwrap());
        let ada = || Principal::User("ada".into());
        for one in [
            caller(ada(), false),
            caller(ada(), true),
            caller(Principal::Operator("root".into()), false),
        ] {
            let begun = sessions.begin(&one, i64::MAX, NOW).await.unwrap();
            assert_eq!(begun.expires_at_ms, NOW + LONGEST_MS);
            let same = sessions.authenticate(&begun.cookie, NOW).await.unwrap();
            assert_eq!(same.principal(), one.principal());
            assert_eq!(
                (same.tenant(), same.is_admin()),
                (one.tenant(), one.is_admin())
            );
        }
        let short = sessions.begin(&caller(ada(), false), NOW + 5, NOW).await;
        let short = short.unwrap();
        assert!(sessions.authenticate(&short.cookie, NOW + 4).await.is_ok());
        assert!(sessions.authenticate(&short.cookie, NOW + 5).await.is_err());
    }

    #[tokio::test]
    async fn an_ended_or_invented_session_is_refused_and_a_module_gets_none() {
        let sessions = Sessions::new(Store::in_memory().await.unwrap());
        let ada = caller(Principal::User("ada".into()), false);
        let begun = sessions.begin(&ada, i64::MAX, NOW).await.unwrap();
        sessions.end(&begun.cookie).await.unwrap();
        for cookie in [begun.cookie.as_str(), "", &"x".repeat(43)] {
            let refused = sessions.authenticate(cookie, NOW).await.unwrap_err();
            assert_eq!(refused.code, tidings_event::Code::Unauthenticated);
        }
        let module = caller(Principal::Module("crm".parse().unwrap()), false);
        assert!(sessions.begin(&module, i64::MAX, NOW).await.is_err());
    }
}
