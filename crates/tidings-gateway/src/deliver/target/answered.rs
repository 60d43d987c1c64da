//! What a receiver over HTTP has answered: what follows from it, and what is kept of it.

use std::time::Duration;

use tidings_egress::Answer;
use zeroize::Zeroizing;

use super::{Outcome, Verdict};
use crate::subscription::{Auth, Webhook};

/// The longest wait that a receiver may ask for; a longer one counts as this.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);
/// The most that is kept of an answer's headers, names and values together, in bytes.
const MOST_OF_HEADERS: usize = 16 * 1024;
/// What stands in an answer in place of a credential.
const HIDDEN: &str = "[hidden]";
/// The shortest value of a header of one's own that is taken for a key, in bytes: a word or a number is none.
const KEY_BYTES: usize = 8;
/// The shortest beginning of a credential that is looked for where an answer was cut off.
const SHORTEST_CUT: usize = 4;

/// 2xx is delivered, 410 ends the subscription, anything else is tried again.
pub(super) fn judged(answer: Answer, now_ms: i64) -> Outcome {
    let status = answer.status;
    let verdict = match status {
        200..=299 => Verdict::Delivered,
        410 => Verdict::Gone,
        _ => Verdict::Failed {
            retry_after: answer
                .header("retry-after")
                .filter(|_| matches!(status, 429 | 503))
                .and_then(|text| wait(text, now_ms)),
            unreachable: status == 429 || status >= 500,
        },
    };
    let error = match verdict {
        Verdict::Delivered => None,
        _ => Some(format!("it answered with status {status}")),
    };
    Outcome {
        verdict,
        status: Some(status),
        error,
        response_body: String::from_utf8_lossy(&answer.body).into_owned(),
        response_headers: bounded(answer.headers),
        connecting: Duration::ZERO,
    }
}

/// Seconds or a date, as `Retry-After` has them (RFC 9110, 10.2.3). A date that is past is no wait.
fn wait(text: &str, now_ms: i64) -> Option<Duration> {
    let text = text.trim();
    let wait = if text.starts_with(|first: char| first.is_ascii_digit()) {
        Duration::from_secs(text.parse().ok()?)
    } else {
        let now = Duration::from_millis(u64::try_from(now_ms).ok()?);
        let date = httpdate::parse_http_date(text).ok()?;
        let date = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        date.checked_sub(now)?
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// The first headers, as many as are kept; the last of them may be cut.
fn bounded(headers: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut room = MOST_OF_HEADERS;
    let kept = headers.into_iter().map_while(|(name, mut value)| {
        room = room.checked_sub(name.len()).filter(|room| *room > 0)?;
        let end = (0..=room.min(value.len())).rfind(|end| value.is_char_boundary(*end));
        value.truncate(end.unwrap_or_default());
        room -= value.len();
        Some((name, value))
    });
    kept.collect()
}

/// What is sent along that nobody but the receiver is to know: as it is sent, and as it was written. `token` is the header of
/// an access token, if one was fetched.
pub(super) fn secrets_of(webhook: &Webhook, token: Option<String>) -> Vec<Zeroizing<String>> {
    let mut secrets = Vec::new();
    let header = webhook.auth.as_ref().and_then(Auth::header);
    for header in [header, token].into_iter().flatten() {
        let header = Zeroizing::new(header);
        if let Some((_, value)) = header.split_once(' ') {
            secrets.push(Zeroizing::new(value.to_owned()));
        }
    }
    let own = webhook
        .headers
        .iter()
        .filter(|(_, value)| value.len() >= KEY_BYTES);
    secrets.extend(own.map(|(_, value)| Zeroizing::new(value.clone())));
    match &webhook.auth {
        Some(Auth::Basic { password, .. }) => secrets.push(password.clone()),
        Some(Auth::OAuth2 { client_secret, .. }) => secrets.push(client_secret.clone()),
        Some(Auth::Bearer { .. }) | None => {}
    }
    let in_json: Vec<_> = secrets
        .iter()
        .filter_map(|secret| {
            let quoted = serde_json::to_string(secret.as_str()).ok()?;
            let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
            // Some writers escape the slash too, as JSON lets them.
            let slashed = Zeroizing::new(inner.replace('/', "\\/"));
            Some([Zeroizing::new(inner.to_owned()), slashed])
        })
        .flatten()
        .collect();
    secrets.extend(in_json);
    secrets.retain(|secret| !secret.is_empty());
    // One that is part of another must not take that apart.
    secrets.sort_by(|one, other| (other.len(), other.as_str()).cmp(&(one.len(), one.as_str())));
    secrets.dedup();
    secrets
}

/// An answer in which a receiver that repeats what it was sent gives no credential away.
pub(super) fn without_secrets(mut answer: Answer, secrets: &[Zeroizing<String>]) -> Answer {
    if secrets.is_empty() {
        return answer;
    }
    for (_, value) in &mut answer.headers {
        for secret in secrets {
            if value.contains(secret.as_str()) {
                *value = value.replace(secret.as_str(), HIDDEN);
            }
        }
    }
    for secret in secrets {
        answer.body = replaced(&answer.body, secret.as_bytes());
        if answer.cut {
            hide_beginning(&mut answer.body, secret.as_bytes());
        }
    }
    answer
}

fn replaced(body: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(first) = rest.first() {
        if let Some(after) = rest.strip_prefix(secret) {
            kept.extend_from_slice(HIDDEN.as_bytes());
            rest = after;
        } else {
            kept.push(*first);
            rest = &rest[1..];
        }
    }
    kept
}

/// The beginning of a credential at the end of a body that was cut off there.
fn hide_beginning(body: &mut Vec<u8>, secret: &[u8]) {
    let longest = secret.len().min(body.len());
    let found = (SHORTEST_CUT..=longest)
        .rev()
        .find(|length| body.ends_with(&secret[..*length]));
    if let Some(length) = found {
        body.truncate(body.len() - length);
        body.extend_from_slice(HIDDEN.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: i64 = 784_111_777_000;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Answer {
            status,
            headers: headers.collect(),
            body: body.as_bytes().to_vec(),
            cut: false,
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_in_each_form_and_an_hour_at_most() {
        let seconds = |number| Some(Duration::from_secs(number));
        for (text, expected) in [
            ("120", seconds(120)),
            (" 0 ", seconds(0)),
            ("999999999", seconds(3_600)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", seconds(120)),
            ("Sunday, 06-Nov-94 08:51:37 GMT", seconds(120)),
            ("Sun Nov  6 08:51:37 1994", seconds(120)),
            ("Mon, 07 Nov 1994 08:49:37 GMT", seconds(3_600)),
            ("Sun, 06 Nov 1994 08:49:36 GMT", None),
            ("soon", None),
            ("-5", None),
            ("", None),
        ] {
            for status in [429, 503, 500] {
                let outcome = judged(answer(status, &[("retry-after", text)], ""), NOW);
                let Verdict::Failed { retry_after, .. } = outcome.verdict else {
                    panic!("{status} is a failure");
                };
                let expected = expected.filter(|_| status != 500);
                assert_eq!(retry_after, expected, "{text} with {status}");
            }
        }
    }

    #[test]
    fn of_many_headers_the_first_are_kept() {
        let long = "é".repeat(5_000);
        let headers = [("a", long.as_str()), ("b", long.as_str()), ("c", "d")];
        let kept = judged(answer(200, &headers, ""), NOW).response_headers;
        let bytes: usize = kept
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        assert!(
            (MOST_OF_HEADERS - 4..=MOST_OF_HEADERS).contains(&bytes),
            "{bytes}"
        );
        assert_eq!((kept.len(), kept[0].1.len()), (2, 10_000));
    }

    #[test]
    fn a_credential_that_comes_back_is_hidden_however_it_is_written() {
        let webhook = |auth: serde_json::Value| {
            let target = serde_json::json!({
                "kind": "webhook", "url": "https://a.example/", "auth": auth,
                "headers": { "x-api-key": "own-key-1", "x-version": "2" },
            });
            let document = serde_json::json!({ "name": "s", "target": target });
            let wanted = crate::subscription::parse(document).unwrap();
            wanted.target.webhook().unwrap().clone()
        };
        let bearer = webhook(serde_json::json!({ "kind": "bearer", "token": "to\"ken-1" }));
        let basic =
            webhook(serde_json::json!({ "kind": "basic", "username": "me", "password": "pass-1" }));
        for (webhook, token, secrets) in [
            (&bearer, None, vec!["own-key-1"]),
            (&bearer, None, vec!["to\"ken-1", "to\\\"ken-1"]),
            (&basic, None, vec!["bWU6cGFzcy0x", "pass-1"]),
            (
                &basic,
                Some("Bearer fetched-1".to_owned()),
                vec!["fetched-1"],
            ),
        ] {
            let body = secrets.join(" and ") + " and 2 more";
            let echo = answer(500, &[("x-echo", &body)], &body);
            let found = without_secrets(echo, &secrets_of(webhook, token));
            let found = judged(found, NOW);
            for secret in secrets {
                assert!(
                    !found.response_body.contains(secret),
                    "{}",
                    found.response_body
                );
                assert!(!found.response_headers[0].1.contains(secret));
            }
            assert!(found.response_body.ends_with(" and 2 more"));
        }
    }

    #[test]
    fn a_credential_that_is_cut_off_is_hidden_too() {
        let secrets = [Zeroizing::new("s3cret-token".to_owned())];
        let cut = Answer {
            cut: true,
            ..answer(200, &[], "it was s3cret-tok")
        };
        let found = without_secrets(cut, &secrets);
        assert_eq!(found.body, format!("it was {HIDDEN}").into_bytes());
    }
}
