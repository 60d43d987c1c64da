//! Access tokens of receivers that want one: OAuth 2.0 client credentials (RFC 6749, 4.4), fetched through the guard.
//!
//! A token is fetched once for all deliveries that wait for it, and kept until shortly before it expires or the
//! receiver refuses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use tidings_egress::{Client, EgressError, Outgoing, Target};
use tokio::sync::OnceCell;
use uuid::Uuid;
use zeroize::Zeroizing;

/// How long a token is used whose server does not say.
const UNSAID: u64 = 300;
/// No token is used longer than this without being fetched again.
const LONGEST: u64 = 24 * 3_600;
/// The most tokens that are kept.
const MOST: usize = 10_000;
/// The longest token, in bytes.
const MAX_BYTES: usize = 8_192;

/// What a token is asked for with.
pub(crate) struct Grant<'a> {
    pub(crate) token_url: &'a Target,
    pub(crate) client_id: &'a str,
    pub(crate) client_secret: &'a str,
    pub(crate) scope: Option<&'a str>,
}

/// The tokens at hand, by subscription.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<Uuid, Arc<Slot>>>);

/// A token of a subscription, or its fetching.
#[derive(Debug)]
pub(crate) struct Slot {
    revision: u32,
    token: OnceCell<Token>,
}

struct Token {
    text: Zeroizing<String>,
    ends_at_ms: i64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Slot {
    /// The value of the header `Authorization`. Only of a slot that [`Tokens::token`] answered.
    pub(crate) fn header(&self) -> Option<String> {
        let token = self.token.get()?;
        Some(format!("Bearer {}", token.text.as_str()))
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: Zeroizing<String>,
    token_type: String,
    expires_in: Option<u64>,
}

impl Tokens {
    /// The token of a subscription: the one at hand unless it is this refused one, or a new one.
    pub(crate) async fn token(
        &self,
        client: &Client,
        subscription: (Uuid, u32),
        grant: Grant<'_>,
        refused: Option<&Arc<Slot>>,
        (now_ms, timeout): (i64, Duration),
    ) -> Result<Arc<Slot>, EgressError> {
        let slot = self.slot(subscription, refused, now_ms);
        let fetch = || fetched(client, grant, now_ms, timeout);
        slot.token.get_or_try_init(fetch).await?;
        Ok(slot)
    }

    fn slot(
        &self,
        (id, revision): (Uuid, u32),
        refused: Option<&Arc<Slot>>,
        now_ms: i64,
    ) -> Arc<Slot> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = known.get(&id) {
            let ended = slot.token.get().is_some_and(|it| it.ends_at_ms <= now_ms);
            let refused = refused.is_some_and(|refused| Arc::ptr_eq(refused, slot));
            if slot.revision == revision && !ended && !refused {
                return slot.clone();
            }
        }
        if known.len() >= MOST {
            known.clear();
        }
        let slot = Arc::new(Slot {
            revision,
            token: OnceCell::new(),
        });
        known.insert(id, slot.clone());
        slot
    }
}

/// Why there is none. It says nothing of the receiver.
pub(super) fn no_token(reason: &str) -> EgressError {
    EgressError::NoCredential(format!("no access token: {reason}"))
}

async fn fetched(
    client: &Client,
    grant: Grant<'_>,
    now_ms: i64,
    timeout: Duration,
) -> Result<Token, EgressError> {
    let failed = |reason: String| no_token(&reason);
    let (id, secret) = (form(grant.client_id), form(grant.client_secret));
    let basic = STANDARD.encode(format!("{id}:{secret}"));
    let mut body = "grant_type=client_credentials".to_owned();
    if let Some(scope) = grant.scope {
        body.extend(["&scope=", &form(scope)]);
    }
    let outgoing = Outgoing {
        target: grant.token_url,
        identity: None,
        headers: vec![
            ("authorization".into(), format!("Basic {basic}")),
            (
                "content-type".into(),
                "application/x-www-form-urlencoded".into(),
            ),
            ("accept".into(), "application/json".into()),
        ],
        body: Bytes::from(body),
        timeout,
    };
    let answer = match client.post(outgoing).await {
        Err(error @ EgressError::Refused(_)) => {
            return Err(failed(format!("TARGET_NOT_ALLOWED: {error}")));
        }
        Err(error @ EgressError::Exhausted(_)) => return Err(error),
        Err(error) => return Err(failed(error.to_string())),
        Ok(answer) => answer,
    };
    if answer.status != 200 {
        let status = answer.status;
        return Err(failed(format!("its server answered with status {status}")));
    }
    // What it answered may hold a token, so that nothing of it is told.
    let granted: Granted = serde_json::from_slice(&answer.body)
        .map_err(|_| failed("its server's answer is not one of RFC 6749".into()))?;
    let bytes = granted.access_token.as_bytes();
    let legal = bytes.iter().all(u8::is_ascii_graphic);
    if !legal || !(1..=MAX_BYTES).contains(&bytes.len()) {
        return Err(failed(
            "its server's answer holds none that can be sent".into(),
        ));
    }
    if !granted.token_type.eq_ignore_ascii_case("bearer") {
        return Err(failed("its server grants another type than bearer".into()));
    }
    let seconds = granted.expires_in.unwrap_or(UNSAID).min(LONGEST);
    // A tenth before its end, so that it does not end on its way.
    let used = i64::try_from(seconds * 900).unwrap_or(i64::MAX);
    Ok(Token {
        text: granted.access_token,
        ends_at_ms: now_ms.saturating_add(used),
    })
}

/// A text as `application/x-www-form-urlencoded` has it, which RFC 6749, 2.3.1 wants of credentials too.
fn form(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                encoded.push(char::from(byte));
            }
            b' ' => encoded.push('+'),
            _ => encoded.extend(["%".to_owned(), format!("{byte:02X}")]),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded_as_a_form_is() {
        assert_eq!(form("a b:c/ü~1"), "a+b%3Ac%2F%C3%BC%7E1");
    }

    #[test]
    fn a_token_is_kept_until_it_ends_is_refused_or_its_subscription_changes() {
        let (tokens, id) = (Tokens::default(), Uuid::from_u128(1));
        let slot = tokens.slot((id, 1), None, 0);
        let text = Zeroizing::new("t".to_owned());
        let token = Token {
            text,
            ends_at_ms: 100,
        };
        assert!(slot.token.set(token).is_ok());
        let same = |other: &Arc<Slot>| Arc::ptr_eq(&slot, other);
        assert!(same(&tokens.slot((id, 1), None, 99)));
        let new = tokens.slot((id, 1), Some(&slot), 99);
        assert!(!same(&new) && new.header().is_none());
        // Who comes with the same refused one gets what was begun for the first.
        assert!(Arc::ptr_eq(&new, &tokens.slot((id, 1), Some(&slot), 99)));
        assert!(!Arc::ptr_eq(&new, &tokens.slot((id, 2), None, 99)));
        let ended = Tokens::default();
        ended.0.lock().unwrap().insert(id, slot.clone());
        assert!(!same(&ended.slot((id, 1), None, 100)));
    }
}
