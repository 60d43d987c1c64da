//! What all homes have in common: the rounds of a claim that has to wait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidings_bus::Receipt;
use tidings_event::json::Fingerprint;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{Claim, Hold, ReceiptsError, Release, Terms, Wanted, Who};

/// The wait before the second look at a key that another holds; it doubles from then on.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// No wait between two looks is longer.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// All waits of one claim together: the caller has promised an answer within 2 s, and a key whose holder died
/// is free only when its lease ends.
const WAITS: Duration = Duration::from_millis(1_600);

/// One question to a home.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) who: Arc<Who>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) event_id: Uuid,
    pub(crate) token: Uuid,
}

/// Its answer, decided in one atomic step.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It is reserved for the token now, or still; the lease begins anew.
    Held { event_id: Uuid, inherited: bool },
    /// It is completed.
    Completed(Receipt),
    /// It stands with another fingerprint.
    Reused,
    /// Another token has it, with the same fingerprint.
    Busy,
}

/// Where keys are kept.
pub(crate) trait Home: Send + Sync {
    /// How long keys are held and honoured.
    fn terms(&self) -> Terms;

    /// One answer for each question, in order, in one round trip. The questions come in one order for all
    /// callers, and no key twice.
    fn ask(&self, asks: &[Ask]) -> impl Future<Output = Result<Vec<Answer>, ReceiptsError>> + Send;

    /// Gives up what its token still holds: removes it, or with `true` keeps its event id without a lease.
    fn withdraw(
        &self,
        holds: &[(Hold, bool)],
    ) -> impl Future<Output = Result<(), ReceiptsError>> + Send;
}

/// Asks until every key is held, completed or refused.
///
/// Keys are asked for in one order, and between two rounds a caller keeps only what comes before the first key
/// that it waits for. So whoever waits holds nothing that the one it waits for could want.
pub(crate) async fn claim(
    home: &impl Home,
    wanted: Vec<Wanted>,
) -> Result<Vec<Claim>, ReceiptsError> {
    let (mut asks, mut indexes) = in_order(wanted)?;
    let mut claims: Vec<Option<Claim>> = Vec::new();
    claims.resize_with(asks.len(), || None);
    let deadline = Instant::now() + WAITS;
    let mut wait = FIRST_WAIT;
    loop {
        let answers = home.ask(&asks).await?;
        debug_assert_eq!(answers.len(), asks.len(), "one answer for each question");
        // Before the first key that another has, and beyond it.
        let (mut before, mut beyond) = (Vec::new(), Vec::new());
        let (mut waits, mut open) = (false, Vec::new());
        for ((ask, index), answer) in asks.into_iter().zip(indexes).zip(answers) {
            match answer {
                Answer::Completed(receipt) => claims[index] = Some(Claim::Replayed(receipt)),
                Answer::Reused => claims[index] = Some(Claim::Reused),
                Answer::Busy => {
                    waits = true;
                    open.push((ask, index));
                }
                Answer::Held {
                    event_id,
                    inherited,
                } => {
                    let side = if waits { &mut beyond } else { &mut before };
                    side.push((index, Hold::new(&ask, event_id, inherited)));
                    open.push((ask, index));
                }
            }
        }
        if !waits {
            for (index, fresh) in before {
                claims[index] = Some(Claim::Fresh(fresh));
            }
            return Ok(claims.into_iter().flatten().collect());
        }
        let late = Instant::now() + wait > deadline;
        if late {
            beyond.extend(before);
        }
        if !beyond.is_empty() {
            let unused = beyond.into_iter().map(|(_, hold)| hold).collect();
            home.withdraw(&withdrawn(unused, Release::NothingAppended))
                .await?;
        }
        if late {
            let retry_after = home.terms().lease;
            return Err(ReceiptsError::Busy { retry_after });
        }
        sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
        (asks, indexes) = open.into_iter().unzip();
    }
}

/// What was given up, each with whether its event id must stay.
pub(crate) fn withdrawn(holds: Vec<Hold>, outcome: Release) -> Vec<(Hold, bool)> {
    let keep = |hold: &Hold| hold.inherited || outcome == Release::Unknown;
    let both = |hold: Hold| {
        let keep = keep(&hold);
        (hold, keep)
    };
    holds.into_iter().map(both).collect()
}

/// The questions in the order that all callers ask in, with the index of each. One token for all of them.
fn in_order(wanted: Vec<Wanted>) -> Result<(Vec<Ask>, Vec<usize>), ReceiptsError> {
    let token = Uuid::new_v4();
    let asks = wanted.into_iter().map(|wanted| Ask {
        who: Arc::new(Who::of(&wanted)),
        fingerprint: wanted.once.fingerprint,
        event_id: wanted.event_id,
        token,
    });
    let mut asks: Vec<(usize, Ask)> = asks.enumerate().collect();
    asks.sort_by(|(_, a), (_, b)| a.who.cmp(&b.who));
    // Equal ones stand side by side, the later behind the earlier.
    let pairs = asks.windows(2);
    let twice = pairs.filter(|pair| pair[0].1.who == pair[1].1.who);
    if let Some(index) = twice.map(|pair| pair[1].0).min() {
        return Err(ReceiptsError::Twice(index));
    }
    let (indexes, asks) = asks.into_iter().unzip();
    Ok((asks, indexes))
}

impl Hold {
    fn new(ask: &Ask, event_id: Uuid, inherited: bool) -> Self {
        Self {
            who: Arc::clone(&ask.who),
            fingerprint: ask.fingerprint,
            token: ask.token,
            event_id,
            inherited,
        }
    }
}
