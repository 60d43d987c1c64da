//! Accepting emits, many in one transaction: while one is being written, what comes next waits together.
//!
//! What has become of earlier emits is noted in the transactions of later ones, or soon after them. Should a process die
//! in between, the relay appends such an emit again, and its event is known to the bus by its key.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tidings_event::Code;
use tidings_store::{Admission, Admitted, EmitNote, Store};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::publish::refusal::{Refusal, Rule};
use crate::storing::store_fault;
use crate::supervised::{Restarts, supervise};

/// The most emits of one transaction, and the most notes.
const MOST: usize = 256;
/// How long what has become of an emit may stay unwritten.
const NOTE_AFTER: Duration = Duration::from_millis(50);
/// How many more may wait to be noted while the store is away: the rest is found out by the relay.
const MOST_NOTED: usize = 4_096;

struct Asked {
    admission: Admission,
    answer: oneshot::Sender<Result<Admitted, Refusal>>,
}

/// The one desk at which emits are accepted. Works until it is dropped.
pub(super) struct Admissions {
    asked: mpsc::Sender<Asked>,
    notes: mpsc::Sender<EmitNote>,
    work: JoinHandle<()>,
}

impl Drop for Admissions {
    fn drop(&mut self) {
        // Who asks has a share of this; what is not noted the relay finds out.
        self.work.abort();
    }
}

impl Admissions {
    pub(super) fn new(store: Store, restarts: Arc<Restarts>) -> Self {
        let (asked, waiting) = mpsc::channel(1_024);
        let (tell, notes) = mpsc::channel(MOST_NOTED);
        let desk = Arc::new(Mutex::new(Desk { waiting, notes }));
        let run = move |_| {
            let (store, desk) = (store.clone(), desk.clone());
            async move { work(&store, &mut *desk.lock().await).await }
        };
        Self {
            asked,
            notes: tell,
            work: tokio::spawn(supervise("admissions", restarts, pending(), run)),
        }
    }

    /// Accepts an emit, or says why not.
    pub(super) async fn admit(&self, admission: Admission) -> Result<Admitted, Refusal> {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { admission, answer };
        let refused = |detail: &str| {
            let refusal = Refusal::new(Code::BrokerUnavailable, Rule::Append, detail);
            Err(refusal.retry_after(Duration::from_secs(1)))
        };
        if self.asked.send(asked).await.is_err() {
            return refused("The gateway is stopping; nothing was emitted.");
        }
        answered.await.unwrap_or_else(|_| {
            refused("It is not known whether the emit was accepted. Retry with the same idempotency key.")
        })
    }

    /// Notes what has become of an emit, soon.
    pub(super) fn note(&self, note: EmitNote) {
        if self.notes.try_send(note).is_err() {
            tracing::warn!("what has become of an emit is left to the relay to find out");
        }
    }
}

/// What has come in.
struct Desk {
    waiting: mpsc::Receiver<Asked>,
    notes: mpsc::Receiver<EmitNote>,
}

async fn work(store: &Store, Desk { waiting, notes }: &mut Desk) {
    let mut asked = Vec::with_capacity(MOST);
    let mut unwritten = Vec::new();
    loop {
        tokio::select! {
            count = waiting.recv_many(&mut asked, MOST) => {
                if count == 0 {
                    return;
                }
            }
            () = tokio::time::sleep(NOTE_AFTER), if !unwritten.is_empty() => {}
            Some(note) = notes.recv(), if unwritten.is_empty() => {
                unwritten.push(note);
                // More may come, and an emit that takes it along.
                continue;
            }
        }
        while unwritten.len() < MOST
            && let Ok(note) = notes.try_recv()
        {
            unwritten.push(note);
        }
        let (admissions, answers): (Vec<_>, Vec<_>) =
            asked.drain(..).map(|it| (it.admission, it.answer)).unzip();
        let admitted = admitted(store, &admissions, &unwritten).await;
        // Written or not: what is not noted the relay finds out, and so nothing piles up here.
        unwritten.clear();
        for (answer, admitted) in answers.into_iter().zip(admitted) {
            // Who has stopped waiting has no use for it; the relay goes on with it.
            let _ = answer.send(admitted);
        }
    }
}

/// One answer for each. Where all together fail, each is asked for alone: a row that is damaged, or two replicas that
/// take one key in different months, are nobody else's failure.
async fn admitted(
    store: &Store,
    admissions: &[Admission],
    notes: &[EmitNote],
) -> Vec<Result<Admitted, Refusal>> {
    let emits = store.emits();
    let error = match emits.admit(admissions, notes).await {
        Ok(admitted) => {
            // Each has an answer, whatever the store has left out.
            let answers = admitted.into_iter().map(Ok);
            let answers = answers.chain(std::iter::repeat_with(|| Err(unanswered())));
            return answers.take(admissions.len()).collect();
        }
        Err(error) => error,
    };
    tracing::warn!(%error, "emits could not be accepted or noted together");
    if error.is_unavailable() {
        let refusal = store_fault(error);
        return admissions.iter().map(|_| Err(refusal.clone())).collect();
    }
    let mut answers = Vec::with_capacity(admissions.len());
    for admission in admissions {
        let one = emits.admit(std::slice::from_ref(admission), &[]).await;
        let one = one.map_err(store_fault);
        answers.push(one.and_then(|mut one| one.pop().ok_or_else(unanswered)));
    }
    answers
}

#[derive(Debug, thiserror::Error)]
#[error("the store has not answered for it")]
struct Unanswered;

fn unanswered() -> Refusal {
    Refusal::fault("Accepting an emit", &Unanswered)
}
