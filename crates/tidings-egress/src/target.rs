//! A URL that may be asked for at all. What its host resolves to is the guard's question, later.
//!
//! The `url` crate reads hosts as browsers do: `0x7f.1`, `2130706433` and `127.0.0.1.` all become
//! `127.0.0.1` here, so that nothing downstream meets another notation.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;
use url::{Host, Url};

/// The longest URL, in bytes.
const MAX_BYTES: usize = 2_048;

/// An http or https URL without user or password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    /// None where no request can be made of it, or one to another host.
    uri: Option<Uri>,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// Over the limit.
    #[error("the URL is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not a URL.
    #[error("it is not a URL: {0}")]
    Malformed(#[from] url::ParseError),
    /// Another scheme.
    #[error("the scheme '{0}' is not http or https")]
    Scheme(String),
    /// A user or a password. Neither is repeated here.
    #[error("it has a user or password; credentials do not belong in a URL")]
    Credentials,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        if text.len() > MAX_BYTES {
            return Err(InvalidTarget::TooLong);
        }
        let url: Url = text.parse()?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidTarget::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidTarget::Credentials);
        }
        // The url crate refuses http and https without a host.
        let uri = url.as_str().parse().ok();
        let uri = uri.filter(|uri: &Uri| uri.host() == url.host_str());
        Ok(Self { url, uri })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Target {
    /// The host as it is compared with names that the operator allows: lower case, IDNA, IPv6 in
    /// brackets.
    pub fn host(&self) -> &str {
        self.url
            .host_str()
            .expect("http and https URLs have a host, or they do not parse")
    }

    /// The address, when the host is one and no resolver will be asked.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self.url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) | None => None,
        }
    }

    /// Whether it is asked for over TLS.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    pub(crate) fn uri(&self) -> Option<&Uri> {
        self.uri.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_of_an_address_is_read_as_that_address() {
        for (text, address) in [
            ("http://127.0.0.1", "127.0.0.1"),
            ("http://127.1", "127.0.0.1"),
            ("http://127.0.0.1.", "127.0.0.1"),
            ("http://2130706433", "127.0.0.1"),
            ("http://0x7f000001", "127.0.0.1"),
            ("http://0x7f.0.0.1:8080/a", "127.0.0.1"),
            ("http://0177.0.0.1", "127.0.0.1"),
            ("http://017700000001", "127.0.0.1"),
            ("http://127.0.0.1%2e", "127.0.0.1"),
            ("http://１２７。０。０。１", "127.0.0.1"),
            ("http:\\\\127.0.0.1", "127.0.0.1"),
            ("http:127.0.0.1", "127.0.0.1"),
            ("http://0/", "0.0.0.0"),
            ("http://[::]", "::"),
            ("http://[0:0:0:0:0:0:0:1]", "::1"),
            ("http://[::ffff:127.0.0.1]", "::ffff:127.0.0.1"),
            ("http://[::127.0.0.1]", "::127.0.0.1"),
            ("http://[64:ff9b::7f00:1]", "64:ff9b::127.0.0.1"),
            ("https://169.254.43518/", "169.254.169.254"),
        ] {
            let target: Target = text
                .parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            let expected: IpAddr = address.parse().unwrap();
            assert_eq!(target.address(), Some(expected), "{text}");
        }
        for name in [
            "http://localhost",
            "http://localhost.",
            "http://127.0.0.1.nip.io",
        ] {
            assert_eq!(name.parse::<Target>().unwrap().address(), None, "{name}");
        }
        assert_eq!(
            "http://LocalHost".parse::<Target>().unwrap().host(),
            "localhost"
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_a_url_can_be_asked_for(
            text in "https?://[a-z0-9_~!$&'()*+,;=.-]{1,20}(:[0-9]{1,5})?[/?]\\PC{0,60}",
        ) {
            let url = text.parse::<Url>();
            if url.is_ok_and(|url| url.username().is_empty() && url.password().is_none()) {
                let target: Target = text.parse().unwrap();
                proptest::prop_assert!(target.uri().is_some());
            }
        }
    }

    #[test]
    fn what_is_no_web_address_is_refused() {
        for (text, part) in [
            ("", "not a URL"),
            ("/keys", "not a URL"),
            ("http://", "not a URL"),
            ("http://1.2.3.256", "not a URL"),
            ("http://[::1", "not a URL"),
            ("http://a b", "not a URL"),
            ("http://127.0.0.1:99999", "not a URL"),
            ("ftp://example.com", "'ftp'"),
            ("file:///etc/passwd", "'file'"),
            ("gopher://127.0.0.1:25/x", "'gopher'"),
            ("javascript:alert(1)", "'javascript'"),
            ("unix:/run/docker.sock", "'unix'"),
            ("http://user@example.com", "user or password"),
            ("http://example.com@127.0.0.1/", "user or password"),
            ("http://:secret@example.com", "user or password"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let long = format!("http://example.com/{}", "a".repeat(MAX_BYTES));
        assert_eq!(long.parse::<Target>(), Err(InvalidTarget::TooLong));
    }
}
