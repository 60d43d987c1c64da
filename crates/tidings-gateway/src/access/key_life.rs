//! What keys go through in their life: rotation, floods, failing issuers, files, the local key, API
//! keys.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt;
use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::attacks::{
    Issuer, NOW, SECRET, ask, check, claims, door, ed, ed_of, jwk, key_set, rsa, sign, token,
};
use super::*;

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch() {
    let issuer = Issuer::of(key_set());
    let door = door(issuer.config()).await;
    assert_eq!(issuer.asked(), 1);
    let now = NOW + 5_000;
    let flood: Vec<_> = (0..500)
        .map(|n| rsa_signed_cheaply(&json!({"alg": "RS256", "kid": n.to_string()})))
        .collect();
    let answers = join_all(flood.iter().map(|token| ask(&door, token, now))).await;
    assert!(
        answers
            .iter()
            .all(|answer| *answer.as_ref().unwrap_err() == Unauthenticated::UnknownKey)
    );
    for (token, ahead) in flood.iter().zip(0..) {
        assert!(ask(&door, token, now + ahead * 9).await.is_err());
    }
    assert_eq!(issuer.asked(), 2);
    assert!(ask(&door, &flood[0], now + 5_000).await.is_err());
    assert_eq!(issuer.asked(), 3);
    assert!(ask(&door, &token(&json!({})), now).await.is_ok());
    assert_eq!(issuer.asked(), 3);
}

/// Unsigned: the key is not found, so no signature is looked at.
fn rsa_signed_cheaply(header: &Value) -> String {
    format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(header.to_string()))
}

#[tokio::test]
async fn keys_rotate_and_withdrawn_ones_end_with_their_tokens() {
    let issuer = Issuer::of(key_set());
    let door = door(issuer.config()).await;
    let old = token(&json!({}));
    assert!(ask(&door, &old, NOW).await.is_ok());
    issuer.now_has(Ok(
        json!({ "keys": [jwk("new", &ed_of(8), Algorithm::EdDSA)] }),
    ));
    let header = json!({"alg": "EdDSA", "kid": "new"});
    let new = sign(&header, &claims(&json!({})), &ed_of(8), Algorithm::EdDSA);
    // Within five seconds of the first fetch the new key stays unknown.
    assert_eq!(
        ask(&door, &new, NOW + 4_999).await.unwrap_err(),
        Unauthenticated::UnknownKey
    );
    assert!(ask(&door, &new, NOW + 5_000).await.is_ok());
    assert_eq!(
        ask(&door, &old, NOW + 5_000).await.unwrap_err(),
        Unauthenticated::UnknownKey
    );
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn an_issuer_that_fails_leaves_the_keys_in_force() {
    let issuer = Issuer::of(json!("not a key set"));
    let door = door(issuer.config()).await;
    let good = token(&json!({}));
    assert_eq!(
        ask(&door, &good, NOW).await.unwrap_err(),
        Unauthenticated::NoKeysYet
    );
    issuer.now_has(Ok(key_set()));
    assert!(ask(&door, &good, NOW + 5_000).await.is_ok());
    let failures = [
        Err("gone".into()),
        Ok(json!({"keys": []})),
        Ok(json!({})),
        Ok(json!([1])),
    ];
    for (failure, round) in failures.into_iter().zip(2..) {
        issuer.now_has(failure);
        let now = NOW + round * 5_000;
        assert!(door.refresh_keys(now).await.is_err());
        assert!(ask(&door, &good, now).await.is_ok());
        let other = token(&json!({"sub": format!("u{round}")}));
        assert!(ask(&door, &other, now).await.is_ok());
    }
    assert_eq!(issuer.asked(), 6);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_the_fetch() {
    let issuer = Issuer::of(json!({}));
    let door = door(issuer.config()).await;
    issuer.now_has(Ok(key_set()));
    let good = token(&json!({}));
    let now = NOW + 5_000;
    let mut gone = Box::pin(ask(&door, &good, now));
    assert!(gone.as_mut().now_or_never().is_none());
    drop(gone);
    assert!(ask(&door, &good, now + 1).await.is_ok());
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_never_answers_holds_nobody_for_long() {
    let keys = Keys::from_source(KeySource::Fetch(Arc::new(|| {
        std::future::pending().boxed()
    })));
    let began = tokio::time::Instant::now();
    assert!(keys.refresh(NOW).await.unwrap_err().contains("no answer"));
    assert_eq!(began.elapsed(), Duration::from_secs(4));
}

#[tokio::test]
async fn keys_that_must_not_be_used_are_left_out() {
    let mut encryption = jwk("a", &ed(), Algorithm::EdDSA);
    encryption["use"] = "enc".into();
    let mut short = jwk("b", &ed(), Algorithm::EdDSA);
    short["x"] = "AAAA".into();
    let mut other = jwk("c", &rsa(), Algorithm::RS256);
    other["alg"] = "PS256".into();
    let mut weak = jwk("f", &rsa(), Algorithm::RS256);
    weak["n"] = URL_SAFE_NO_PAD.encode([0xff; 128]).into();
    let secret = json!({"kty": "oct", "kid": "g", "k": URL_SAFE_NO_PAD.encode(SECRET)});
    let good = jwk("d", &ed(), Algorithm::EdDSA);
    let keys = json!({ "keys": [encryption, short, other, weak, secret, 1, {}, good] });
    let door = door(Issuer::of(keys).config()).await;
    for kid in ["a", "b", "c", "f", "g"] {
        for alg in ["RS256", "EdDSA"] {
            let token = rsa_signed_cheaply(&json!({"alg": alg, "kid": kid}));
            check(&door, kid, &token, Some(Unauthenticated::UnknownKey)).await;
        }
    }
    check(&door, "the good one", &token(&json!({})), None).await;
}

#[tokio::test]
async fn a_key_file_is_read_again_and_must_be_there_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let store = Store::in_memory().await.unwrap();
    let config = || AccessConfig {
        keys: Some(KeySource::File(path.clone())),
        ..AccessConfig::default()
    };
    let early = Access::new(config(), store.clone(), folder.path(), NOW).await;
    assert!(matches!(early, Err(AccessError::KeySet(_))));
    std::fs::write(
        &path,
        json!({"keys": [jwk("r", &rsa(), Algorithm::RS256)]}).to_string(),
    )
    .unwrap();
    let door = Access::new(config(), store, folder.path(), NOW)
        .await
        .unwrap();
    let good = token(&json!({}));
    assert_eq!(
        ask(&door, &good, NOW).await.unwrap_err(),
        Unauthenticated::UnknownKey
    );
    std::fs::write(&path, key_set().to_string()).unwrap();
    assert!(ask(&door, &good, NOW + 5_000).await.is_ok());
}

#[tokio::test]
async fn the_local_key_is_in_force_only_while_nothing_else_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_memory().await.unwrap();
    let local = Access::new(AccessConfig::default(), store.clone(), folder.path(), NOW)
        .await
        .unwrap();
    let claims = Claims {
        subject: "dev".into(),
        tenant: Some("acme".parse().unwrap()),
        module: Some("crm".parse().unwrap()),
        admin: true,
        ..Claims::default()
    };
    let key = LocalKey::load(folder.path()).unwrap();
    let minted = key.mint(&claims, Duration::from_mins(1), NOW);
    let caller = ask(&local, &minted, NOW).await.unwrap();
    assert_eq!(
        (caller.describe().as_str(), caller.is_admin()),
        ("Module 'crm'", true)
    );
    assert_eq!(
        ask(&local, &minted, NOW + 60_000).await.unwrap_err(),
        Unauthenticated::Expired
    );
    let operator = Claims {
        subject: "root".into(),
        operator: true,
        ..Claims::default()
    };
    let operator = key.mint(&operator, Duration::from_mins(1), NOW);
    assert!(ask(&local, &operator, NOW).await.unwrap().is_operator());

    let secret = Some(Zeroizing::new(SECRET.to_vec()));
    let shared = AccessConfig {
        shared_secret: secret,
        ..AccessConfig::default()
    };
    for config in [Issuer::of(key_set()).config(), shared] {
        let door = Access::new(config, store.clone(), folder.path(), NOW)
            .await
            .unwrap();
        assert!(door.local_key().is_none());
        assert_eq!(
            ask(&door, &minted, NOW).await.unwrap_err(),
            Unauthenticated::UnknownKey
        );
    }
    let short = Some(Zeroizing::new(b"short".to_vec()));
    let short = AccessConfig {
        shared_secret: short,
        ..AccessConfig::default()
    };
    let refused = Access::new(short, store, folder.path(), NOW).await;
    assert!(matches!(refused, Err(AccessError::ShortSecret(5))));
}

#[tokio::test]
async fn api_keys_come_in_by_the_same_door() {
    let door = door(AccessConfig::default()).await;
    let new = NewApiKey {
        name: "ci".into(),
        module: None,
        scopes: vec![Scope::ReadEvents],
        expires_at_ms: None,
    };
    let acme = "acme".parse().unwrap();
    let (row, text) = door
        .api_keys()
        .create(&acme, new, NOW, |_| Vec::new())
        .await
        .unwrap();
    let caller = ask(&door, &text, NOW).await.unwrap();
    assert_eq!(caller.describe(), "API key 'ci'");
    assert!(
        door.api_keys()
            .revoke(&acme, row.id, NOW, &[])
            .await
            .unwrap()
    );
    check(&door, "revoked", &text, Some(Unauthenticated::ApiKey)).await;
}
