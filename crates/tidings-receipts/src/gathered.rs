//! Calls of many callers in one statement: while some statements run, what comes next waits together.
//!
//! Of PostgreSQL a statement over a hundred keys costs a fifteenth a key of one over a single key, and commits once; of
//! Valkey a script and its round trip are shared.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::ops::{Deref, Range};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tidings_bus::Receipt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::claiming::Ask;
use crate::{Hold, RETRY_AFTER, ReceiptsError, Who};

/// Rows of one statement, unless a single call has more.
const ROWS: usize = 500;

/// Calls that wait; further callers wait for their place.
const CALLS: usize = 1_024;

/// How long a caller waits for its place and its statement, of the 2 s that were promised.
const PATIENCE: Duration = Duration::from_millis(1800);

type Answered<R> = Result<Vec<R>, ReceiptsError>;

/// Runs one statement over rows with distinct keys; answers one for each.
type Statement<T, R> =
    dyn Fn(Rows<T>) -> Pin<Box<dyn Future<Output = Answered<R>> + Send>> + Send + Sync;

/// What is about one key.
pub(crate) trait Keyed: Send + Sync + 'static {
    /// That key.
    fn who(&self) -> &Arc<Who>;
}

impl Keyed for Ask {
    fn who(&self) -> &Arc<Who> {
        &self.who
    }
}

impl Keyed for (Hold, Receipt) {
    fn who(&self) -> &Arc<Who> {
        &self.0.who
    }
}

/// The rows of one statement: those of all its callers, or of one of them.
pub(crate) struct Rows<T> {
    all: Arc<Vec<T>>,
    part: Range<usize>,
}

impl<T> Deref for Rows<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.all[self.part.clone()]
    }
}

struct Call<T, R> {
    rows: Vec<T>,
    answer: oneshot::Sender<Answered<R>>,
}

/// One kind of statement, with the calls that wait for it.
#[derive(Debug)]
pub(crate) struct Gathered<T, R> {
    calls: mpsc::Sender<Call<T, R>>,
    work: JoinHandle<()>,
}

impl<T: Keyed, R: Send + 'static> Gathered<T, R> {
    /// Runs until it is dropped, so many statements at once. Calls whose caller is gone are run too, or with `skip` left out.
    pub(crate) fn new(
        at_once: usize,
        skip: bool,
        statement: impl Fn(Rows<T>) -> Pin<Box<dyn Future<Output = Answered<R>> + Send>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let (calls, waiting) = mpsc::channel(CALLS);
        let work = tokio::spawn(work(waiting, at_once, skip, Arc::new(statement)));
        Self { calls, work }
    }

    /// One answer for each row, in order. No two rows are about one key.
    pub(crate) async fn run(&self, rows: Vec<T>) -> Answered<R> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let answered = timeout(PATIENCE, async {
            let (answer, answered) = oneshot::channel();
            self.calls.send(Call { rows, answer }).await.ok()?;
            answered.await.ok()
        });
        let unavailable = ReceiptsError::Unavailable {
            retry_after: RETRY_AFTER,
        };
        answered.await.ok().flatten().unwrap_or(Err(unavailable))
    }
}

impl<T, R> Drop for Gathered<T, R> {
    fn drop(&mut self) {
        // Nobody waits any more: a caller borrows what is dropped here.
        self.work.abort();
    }
}

async fn work<T: Keyed, R: Send + 'static>(
    mut calls: mpsc::Receiver<Call<T, R>>,
    at_once: usize,
    skip: bool,
    statement: Arc<Statement<T, R>>,
) {
    let mut running = JoinSet::new();
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Some(call) = calls.recv().await else {
                return;
            };
            waiting.push_back(call);
        }
        while running.try_join_next().is_some() {}
        if running.len() >= at_once {
            running.join_next().await;
        }
        while waiting.len() < CALLS
            && let Ok(call) = calls.try_recv()
        {
            waiting.push_back(call);
        }
        if skip {
            waiting.retain(|call| !call.answer.is_closed());
        }
        let together = take(&mut waiting);
        if !together.is_empty() {
            running.spawn(answer(together, statement.clone()));
        }
    }
}

/// The first calls that fit together: no key twice, not too many rows.
fn take<T: Keyed, R>(waiting: &mut VecDeque<Call<T, R>>) -> Vec<Call<T, R>> {
    if waiting.len() == 1 {
        return waiting.drain(..).collect();
    }
    let (mut taken, mut keys) = (Vec::new(), HashSet::new());
    while let Some(call) = waiting.front() {
        let fits = keys.is_empty() || keys.len() + call.rows.len() <= ROWS;
        if !fits || call.rows.iter().any(|row| keys.contains(row.who())) {
            break;
        }
        keys.extend(call.rows.iter().map(|row| Arc::clone(row.who())));
        taken.extend(waiting.pop_front());
    }
    taken
}

async fn answer<T: Keyed, R>(calls: Vec<Call<T, R>>, statement: Arc<Statement<T, R>>) {
    let mut callers = Vec::with_capacity(calls.len());
    let mut all = Vec::with_capacity(calls.iter().map(|call| call.rows.len()).sum());
    for call in calls {
        let part = all.len()..all.len() + call.rows.len();
        callers.push((call.answer, part));
        all.extend(call.rows);
    }
    let all = Arc::new(all);
    let of = |part| Rows {
        all: Arc::clone(&all),
        part,
    };
    match statement(of(0..all.len())).await {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for (answer, part) in callers {
                let own = answers.by_ref().take(part.len()).collect();
                // A caller that has gone needs no answer.
                let _ = answer.send(Ok(own));
            }
        }
        // One caller's unreadable row is not the others' fault. A token gets the same answer again.
        Err(ReceiptsError::Unreadable(_)) if callers.len() > 1 => {
            for (answer, part) in callers {
                let own = statement(of(part)).await;
                let _ = answer.send(own);
            }
        }
        Err(error) => {
            for (answer, _) in callers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
