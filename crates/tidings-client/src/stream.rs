//! Events as they come in. A lost connection is made anew, and goes on after the last event that
//! came.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use reqwest::{Response, Url};

use crate::client::Client;
use crate::error::Error;
use crate::event::Event;
use crate::request::{Answer, unreachable};
use crate::sse::{Decoder, TooLarge};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A connection on which not even a heartbeat came for so long is dead.
const SILENCE: Duration = Duration::from_mins(1);

/// Which events to stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamQuery {
    /// A type or pattern.
    pub event_type: Option<String>,
    /// The cursor of the last event dealt with; none for events from now on.
    pub after: Option<String>,
}

/// An event and where the stream stands after it.
#[derive(Debug, Clone)]
pub struct StreamedEvent {
    /// What to go on after, in another stream.
    pub cursor: String,
    /// The event.
    pub event: Event,
}

/// A stream of events. Connects when the first event is asked for.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    url: Url,
    cursor: Option<String>,
    connection: Option<(Response, Decoder)>,
    failures: u32,
}

impl EventStream {
    pub(crate) fn new(client: Client, url: Url, after: Option<String>) -> Self {
        Self {
            client,
            url,
            cursor: after,
            connection: None,
            failures: 0,
        }
    }

    /// Waits for the next event. After an error the stream can be asked again, and goes on where it
    /// was.
    pub async fn next(&mut self) -> Result<StreamedEvent, Error> {
        loop {
            match self.next_of_connection().await {
                Ok(Some(event)) => {
                    self.failures = 0;
                    return Ok(event);
                }
                // The server ends streams when it shuts down; that counts as a failure, so that one
                // which ends every stream at once is not asked without pause.
                Ok(None) => self.lost(None).await?,
                Err(error) => self.lost(Some(error)).await?,
            }
        }
    }

    /// The cursor of the last event that came.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// May be abandoned at any await: the connection and what has arrived stay where they are.
    async fn next_of_connection(&mut self) -> Result<Option<StreamedEvent>, Error> {
        if self.connection.is_none() {
            self.connection = Some((self.connect().await?, Decoder::default()));
        }
        let Some((response, decoder)) = &mut self.connection else {
            return Ok(None);
        };
        let status = response.status().as_u16();
        let unexpected = |reason: String| Error::Unexpected {
            url: self.url.to_string(),
            status,
            reason,
        };
        loop {
            while let Some(message) = decoder.next() {
                if message.event != "event" {
                    continue;
                }
                let event = serde_json::from_str(&message.data)
                    .map_err(|error| unexpected(error.to_string()))?;
                let cursor = message
                    .id
                    .ok_or_else(|| unexpected("an event without id".to_owned()))?;
                self.cursor = Some(cursor.clone());
                return Ok(Some(StreamedEvent { cursor, event }));
            }
            // The stream works, and may be idle for as long as its tenant is. A position alone says only that it has begun.
            if std::mem::take(&mut decoder.has_beaten) {
                self.failures = 0;
            }
            // The server tells where a stream stands at its beginning, before any event.
            if let Some(cursor) = &decoder.last_id {
                self.cursor = Some(cursor.clone());
            }
            let piece = match tokio::time::timeout(SILENCE, response.chunk()).await {
                Ok(read) => read.map_err(|error| unreachable(&self.url, error))?,
                Err(_) => None,
            };
            let Some(piece) = piece else { return Ok(None) };
            let fed = decoder.feed(&piece);
            fed.map_err(|TooLarge| unexpected("an event without end".to_owned()))?;
        }
    }

    async fn connect(&self) -> Result<Response, Error> {
        let accept = HeaderValue::from_static("text/event-stream");
        let mut request = self
            .client
            .http
            .get(self.url.clone())
            .header(ACCEPT, accept);
        if let Some(cursor) = &self.cursor {
            request = request.header(LAST_EVENT_ID, cursor);
        }
        let answered = async {
            let sent = request.send().await;
            let response = sent.map_err(|error| unreachable(&self.url, error))?;
            if response.status().is_success() {
                Ok(response)
            } else {
                Err(Answer::read(response).await?.into_refusal())
            }
        };
        let answered = tokio::time::timeout(SILENCE, answered).await;
        answered.map_err(|elapsed| Error::Unreachable {
            url: self.url.to_string(),
            may_have_arrived: true,
            source: Box::new(elapsed),
        })?
    }

    /// Waits before the next connection, or gives the error to the caller.
    async fn lost(&mut self, error: Option<Error>) -> Result<(), Error> {
        let status = match &error {
            None | Some(Error::Unreachable { .. }) => None,
            Some(Error::Refused(problem)) => Some(problem.status),
            Some(Error::Unexpected { status, .. }) => Some(*status),
            Some(Error::Configuration(_)) => Some(0),
        };
        let passing = status.is_none_or(|status| matches!(status, 429 | 502..=504));
        self.connection = None;
        self.failures += 1;
        let retries = &self.client.retries;
        let asked = match &error {
            Some(Error::Refused(problem)) => problem.retry_after,
            _ => None,
        };
        let wait = asked.unwrap_or_else(|| retries.wait_after(self.failures));
        if passing && self.failures < retries.tries && wait <= retries.longest_wait {
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        self.failures = 0;
        Err(error.unwrap_or_else(|| Error::Unreachable {
            url: self.url.to_string(),
            may_have_arrived: true,
            source: "the stream ended again and again".into(),
        }))
    }
}
