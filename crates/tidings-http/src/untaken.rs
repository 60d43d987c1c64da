//! Connections over HTTP/2 whose client does nothing. It may keep one alive and grant no window for an answer: nothing then
//! waits for the socket, whose timeout is for what was written there. Or it may keep one alive and ask for nothing.
//!
//! Cast: [`Streams`] runs the task of each stream, so that one can be ended alone; [`Answers`] knows of a connection since
//! when each answer is to be taken, and since when there is no [`Exchange`]. A task that is ended lets go of its stream, which
//! is what resets it: hyper has no other way, and does not ask an answer's body for anything while there is no window.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::time::Instant;

/// An answer is handed over in pieces of so many bytes: what was handed over is kept until the client takes it.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// What ends the task that this is asked in.
    static END: Arc<Notify>;
}

/// Runs what hyper wants run, the streams of HTTP/2, each in a task that can be ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let end = Arc::new(Notify::new());
        tokio::spawn(END.scope(end.clone(), async move {
            tokio::select! {
                biased;
                _ = stream => {}
                () = end.notified() => {}
            }
        }));
    }
}

/// The answers of one connection, each with the time since when its client is to take some of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    waiting: HashMap<u64, Waiting>,
    /// Requests that are not answered to their end.
    busy: usize,
    /// Since when there are none of them, once there was one.
    idle_since: Option<Instant>,
}

/// A request over HTTP/2 and its answer, until both have ended.
#[derive(Debug)]
pub(crate) struct Exchange(Answers);

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut open = self.0.open();
        open.busy -= 1;
        if open.busy == 0 {
            open.idle_since = Some(Instant::now());
        }
    }
}

/// An answer of which the client is to take some.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    end: Arc<Notify>,
}

impl Waiting {
    fn from_now(end: &Arc<Notify>) -> Self {
        Self {
            since: Instant::now(),
            end: end.clone(),
        }
    }
}

impl Answers {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request over HTTP/2 has come.
    pub(crate) fn begin(&self) -> Exchange {
        let mut open = self.open();
        open.busy += 1;
        open.idle_since = None;
        Exchange(self.clone())
    }

    /// The same answer, watched. For answers over HTTP/2, in the task of their stream.
    pub(crate) fn watch(&self, body: Body, exchange: Exchange) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let end = END.with(Arc::clone);
        let mut open = self.open();
        open.last += 1;
        let number = open.last;
        open.waiting.insert(number, Waiting::from_now(&end));
        drop(open);
        Body::new(Watched {
            body,
            left: Bytes::new(),
            number,
            end,
            exchange,
        })
    }

    /// Resets each stream whose client has taken nothing of its answer for so long. Ready when no stream was open for so
    /// long; never over HTTP/1, whose idle connections hyper closes.
    pub(crate) async fn until_idle(&self, patience: Duration) {
        loop {
            tokio::time::sleep(patience / 4).await;
            let open = self.open();
            if open
                .idle_since
                .is_some_and(|since| since.elapsed() >= patience)
            {
                return;
            }
            for waiting in open.waiting.values() {
                if waiting.since.elapsed() >= patience {
                    tracing::debug!("a client took nothing of an answer, whose stream is reset");
                    waiting.end.notify_one();
                }
            }
        }
    }
}

/// An answer's body. It is asked for its next piece when the one before is handed over, for which a window of one byte is
/// enough. So the last byte of what it has goes by itself: it waits until there is a window for all before it.
struct Watched {
    body: Body,
    /// What is not handed over of what the body gave.
    left: Bytes,
    number: u64,
    end: Arc<Notify>,
    exchange: Exchange,
}

impl Watched {
    fn piece(&mut self) -> Option<Frame<Bytes>> {
        let length = match self.left.len() {
            0 => return None,
            1 => 1,
            more => PIECE.min(more - 1),
        };
        let piece = self.left.split_to(length);
        let mut open = self.exchange.0.open();
        let waiting = Waiting::from_now(&self.end);
        open.waiting.insert(self.number, waiting);
        Some(Frame::data(piece))
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        // It has taken what it was given, and waits for us now.
        this.exchange.0.open().waiting.remove(&this.number);
        loop {
            if let Some(piece) = this.piece() {
                return Poll::Ready(Some(Ok(piece)));
            }
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.left = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let left = self.left.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + left);
        }
        hint.set_lower(hint.lower() + left);
        hint
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.exchange.0.open().waiting.remove(&self.number);
    }
}
