//! The token itself: pure, from credentials, region and time. As AWS describes it in "Create a signed AWS API request",
//! with the signature among the query parameters.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use reqsign_aws_core::{Credential, EMPTY_STRING_SHA256};
use sha2::{Digest as _, Sha256};

/// How long a token is valid: MSK takes no longer one.
pub const VALID_FOR: Duration = Duration::from_mins(15);

const SERVICE: &str = "kafka-cluster";
const ACTION: &str = "kafka-cluster:Connect";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const USER_AGENT: &str = concat!("tidings/", env!("CARGO_PKG_VERSION"));

/// The signed URL in base64, as MSK reads it.
pub(crate) fn token(credential: &Credential, region: &str, now: Timestamp) -> String {
    let url = presigned(credential, region, now);
    // Behind what is signed: it is for AWS's own records.
    URL_SAFE_NO_PAD.encode(format!("{url}&User-Agent={}", encoded(USER_AGENT)))
}

/// The URL that asks to connect, with its signature.
fn presigned(credential: &Credential, region: &str, now: Timestamp) -> String {
    let host = format!("kafka.{region}.amazonaws.com");
    let time = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = now.strftime("%Y%m%d").to_string();
    let scope = format!("{date}/{region}/{SERVICE}/aws4_request");
    let granted = format!("{}/{scope}", credential.access_key_id);
    let seconds = VALID_FOR.as_secs().to_string();
    // In the order of their names, as they are signed.
    let mut parameters = vec![
        ("Action", ACTION),
        ("X-Amz-Algorithm", ALGORITHM),
        ("X-Amz-Credential", &granted),
        ("X-Amz-Date", &time),
        ("X-Amz-Expires", &seconds),
    ];
    if let Some(session) = &credential.session_token {
        parameters.push(("X-Amz-Security-Token", session));
    }
    parameters.push(("X-Amz-SignedHeaders", "host"));
    let query = parameters.iter();
    let query: Vec<String> = query
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    let query = query.join("&");
    let request = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{EMPTY_STRING_SHA256}");
    let request = hex(&Sha256::digest(request));
    let key = format!("AWS4{}", credential.secret_access_key);
    let key = [date.as_str(), region, SERVICE, "aws4_request"]
        .into_iter()
        .fold(key.into_bytes(), |key, part| hmac(&key, part));
    let signature = hex(&hmac(
        &key,
        &format!("{ALGORITHM}\n{time}\n{scope}\n{request}"),
    ));
    format!("https://{host}/?{query}&X-Amz-Signature={signature}")
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes all");
    }
    text
}

/// All but letters, digits and `-._~` as `%XY`, which is stricter than in most URLs.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes all");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What AWS's own signer for Python (aws-msk-iam-sasl-signer-python 1.0.2) makes of the same, at the same time.
    #[test]
    fn the_signature_is_that_of_aws_own_signer() {
        let now: Timestamp = "2026-11-21T20:15:16Z".parse().expect("a time");
        let mut credential = Credential {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            session_token: None,
            expires_in: None,
        };
        let expected = "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect\
            &X-Amz-Algorithm=AWS4-HMAC-SHA256\
            &X-Amz-Credential=AKIDEXAMPLE%2F20261121%2Feu-central-1%2Fkafka-cluster%2Faws4_request\
            &X-Amz-Date=20261121T201516Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
            &X-Amz-Signature=fb7edddcb873b45679e761db36eea461e484ad932fbb157cf074dc249b58065a";
        assert_eq!(presigned(&credential, "eu-central-1", now), expected);
        let token = token(&credential, "eu-central-1", now);
        let read = URL_SAFE_NO_PAD.decode(token).expect("base64");
        let read = String::from_utf8(read).expect("text");
        assert_eq!(
            read.strip_prefix(expected),
            Some(concat!("&User-Agent=tidings%2F", env!("CARGO_PKG_VERSION")))
        );
        // Of a role. AWS's signer writes the session elsewhere, and signs in the order of the names all the same.
        let session = "IQoJb3JpZ2luX2VjEPz//////////wEaCXVzLWVhc3QtMSJ+/==";
        credential.session_token = Some(session.into());
        let url = presigned(&credential, "eu-central-1", now);
        let signature = "d4d9df4ed95687878ff761e1208723386a59b88acb897a6b929bfb79ba24bcfc";
        assert!(
            url.ends_with(&format!("&X-Amz-Signature={signature}")),
            "{url}"
        );
        let session = "&X-Amz-Security-Token=IQoJb3JpZ2luX2VjEPz%2F%2F%2F%2F%2F%2F%2F%2F%2F%2FwEaCXVzLWVhc3QtMSJ%2B%2F%3D%3D&";
        assert!(url.contains(session), "{url}");
    }
}
