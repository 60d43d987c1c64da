//! One request: send it, repeat it where that is safe, and turn the answer into a value or an
//! error.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::client::{Client, Retries};
use crate::error::{Error, Problem};

/// How long one try may take, from connecting to the answer's last byte.
const TRY_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer that is read. A page of events ends at about 16 MiB as the log holds them; as
/// JSON that is 100 MiB at worst, with each byte escaped.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// The bus is away: told at once, nothing is buffered (source A).
const BROKER_UNAVAILABLE: &str = "events.broker.unavailable";

/// Whether the same request may be carried out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A second time changes nothing: reads, puts, and publishes with their key.
    Safe,
    /// Only if the first certainly was not carried out.
    IfNotDone,
}

/// What stands in a request.
pub(crate) enum Body {
    /// JSON.
    Json(Value),
    /// Text of this media type.
    Text(&'static str, String),
}

/// What to send.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) repeat: Repeat,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Body>,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url, repeat: Repeat) -> Self {
        Self {
            method,
            url,
            repeat,
            headers: HeaderMap::new(),
            body: None,
        }
    }

    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Some(Body::Json(body));
        self
    }

    /// A body that stays as it is written: no member of it is read and written anew.
    pub(crate) fn written(self, body: &impl serde::Serialize) -> Result<Self, Error> {
        let body = serde_json::to_string(body);
        let body = body.map_err(|error| Error::Configuration(error.to_string()))?;
        Ok(self.text("application/json", &body))
    }

    pub(crate) fn text(mut self, content_type: &'static str, text: &str) -> Self {
        self.body = Some(Body::Text(content_type, text.to_owned()));
        self
    }

    /// The answer, once it is a success.
    pub(crate) async fn send(self, client: &Client) -> Result<Answer, Error> {
        let (mut tried, mut arrived) = (0, false);
        loop {
            tried += 1;
            let outcome = self.try_once(client).await;
            let Err(mut error) = outcome else {
                return outcome;
            };
            match &mut error {
                Error::Unreachable {
                    may_have_arrived, ..
                } => {
                    arrived |= *may_have_arrived;
                    *may_have_arrived = arrived;
                }
                other => arrived |= other.is_in_doubt(),
            }
            match self.wait_before_next(&error, tried, &client.retries) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(error),
            }
        }
    }

    async fn try_once(&self, client: &Client) -> Result<Answer, Error> {
        let mut request = client
            .http
            .request(self.method.clone(), self.url.clone())
            .headers(self.headers.clone())
            .timeout(TRY_TIMEOUT);
        request = match &self.body {
            None => request,
            Some(Body::Json(body)) => request.json(body),
            Some(Body::Text(content_type, text)) => request
                .header(CONTENT_TYPE, *content_type)
                .body(text.clone()),
        };
        let response = request
            .send()
            .await
            .map_err(|error| unreachable(&self.url, error))?;
        let answer = Answer::read(response).await?;
        if answer.status.is_success() {
            Ok(answer)
        } else {
            Err(answer.into_refusal())
        }
    }

    /// How long to wait before the next try; none when there must not be one.
    fn wait_before_next(&self, error: &Error, tried: u32, retries: &Retries) -> Option<Duration> {
        let safe = self.repeat == Repeat::Safe;
        let (again, asked) = match error {
            Error::Unreachable {
                may_have_arrived, ..
            } => (safe || !may_have_arrived, None),
            // What to do then is the caller's decision (source A), who may have its own place for what is not published.
            Error::Refused(problem) if problem.code == BROKER_UNAVAILABLE => return None,
            Error::Refused(problem) => (repeatable(problem.status, safe), problem.retry_after),
            Error::Unexpected { status, .. } => (repeatable(*status, safe), None),
            Error::Configuration(_) => (false, None),
        };
        if !again || tried >= retries.tries {
            return None;
        }
        match asked {
            // Coming back earlier than asked is of no use, and waiting for minutes is the caller's
            // decision.
            Some(wait) => (wait <= retries.longest_wait).then_some(wait),
            None => Some(retries.wait_after(tried)),
        }
    }
}

fn repeatable(status: u16, safe: bool) -> bool {
    status == 429 || (safe && matches!(status, 502..=504))
}

impl Retries {
    /// Doubles from try to try; the random half keeps clients from coming back all at once.
    pub(crate) fn wait_after(&self, tried: u32) -> Duration {
        let doubled = self
            .first_wait
            .saturating_mul(1 << tried.saturating_sub(1).min(16));
        let longest = doubled.min(self.longest_wait);
        // The last byte of a UUID v7 is random.
        let share = f64::from(Uuid::now_v7().as_bytes()[15]) / 255.0;
        longest.mul_f64(0.5 + share / 2.0)
    }
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn read(mut response: Response) -> Result<Self, Error> {
        let (url, status) = (response.url().clone(), response.status());
        let headers = response.headers().clone();
        let mut body = Vec::new();
        while let Some(piece) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&url, error))?
        {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                let reason = format!("more than {MAX_ANSWER_BYTES} bytes");
                return Err(Error::Unexpected {
                    url: url.into(),
                    status: status.into(),
                    reason,
                });
            }
            body.extend_from_slice(&piece);
        }
        Ok(Self {
            url,
            status,
            headers,
            body,
        })
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected(&error.to_string()))
    }

    /// The body as it is.
    pub(crate) fn text(&self) -> Result<String, Error> {
        let text = String::from_utf8(self.body.clone());
        text.map_err(|error| self.unexpected(&error.to_string()))
    }

    /// The body as JSON; null when there is none.
    pub(crate) fn value(&self) -> Result<Value, Error> {
        if self.body.is_empty() {
            Ok(Value::Null)
        } else {
            self.json()
        }
    }

    pub(crate) fn into_refusal(self) -> Error {
        match serde_json::from_slice::<Problem>(&self.body) {
            Ok(mut problem) => {
                problem.status = self.status.as_u16();
                problem.retry_after = retry_after(&self.headers);
                Error::Refused(Box::new(problem))
            }
            Err(_) => self.unexpected("no problem document"),
        }
    }

    fn unexpected(&self, reason: &str) -> Error {
        let url = self.url.to_string();
        Error::Unexpected {
            url,
            status: self.status.as_u16(),
            reason: reason.to_owned(),
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// The URL is told once, by our own error.
pub(crate) fn unreachable(url: &Url, error: reqwest::Error) -> Error {
    Error::Unreachable {
        url: url.to_string(),
        may_have_arrived: !error.is_connect(),
        source: Box::new(error.without_url()),
    }
}
