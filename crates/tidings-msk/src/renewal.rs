//! Credentials at hand: a task fetches them, and fetches them anew well before they end. Whoever asks gets the latest at
//! once; only before the first answer is there anything to wait for.

use std::time::Duration;

use jiff::Timestamp;
use reqsign_aws_core::Credential;
use reqsign_core::time::Timestamp as Time;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::{PATIENCE, TokenError};

/// Credentials that end are fetched anew so long before.
const AHEAD: Duration = Duration::from_mins(5);
/// Those that do not say when they end may be replaced in their file at any time.
const UNKNOWN_END: Duration = Duration::from_mins(5);
/// Between two fetches at least, after failures too.
const PAUSE: Duration = Duration::from_secs(10);

/// What is known by now.
#[derive(Debug, Clone, Default)]
struct Latest {
    credential: Option<Credential>,
    /// Why the last fetch failed, if it did.
    failure: Option<TokenError>,
}

impl Latest {
    fn at(&self, now: Timestamp) -> Result<Credential, TokenError> {
        let valid = self.credential.as_ref().filter(|it| !has_ended(it, now));
        match (valid, &self.failure) {
            (Some(credential), _) => Ok(credential.clone()),
            (None, Some(failure)) => Err(failure.clone()),
            (None, None) => Err(TokenError::Timeout),
        }
    }
}

fn has_ended(credential: &Credential, now: Timestamp) -> bool {
    let end = credential.expires_in.map(Time::as_second);
    end.is_some_and(|end| end <= now.as_second())
}

/// How long credentials are kept before they are fetched anew.
fn kept_for(credential: &Credential, now: Timestamp) -> Duration {
    let Some(end) = credential.expires_in else {
        return UNKNOWN_END;
    };
    let left = u64::try_from(end.as_second() - now.as_second()).unwrap_or_default();
    Duration::from_secs(left).saturating_sub(AHEAD).max(PAUSE)
}

/// The task; its drop ends it.
#[derive(Debug)]
pub(crate) struct Renewal {
    latest: watch::Receiver<Latest>,
    task: JoinHandle<()>,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Renewal {
    /// Begins to fetch.
    ///
    /// # Panics
    /// Outside a runtime.
    pub(crate) fn start<F>(mut fetch: impl FnMut() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<Credential, TokenError>> + Send,
    {
        let (tell, latest) = watch::channel(Latest::default());
        let task = tokio::spawn(async move {
            loop {
                let fetched = timeout(PATIENCE, fetch()).await;
                let wait = match fetched.unwrap_or(Err(TokenError::Timeout)) {
                    Ok(credential) => {
                        let wait = kept_for(&credential, Timestamp::now());
                        tell.send_replace(Latest {
                            credential: Some(credential),
                            failure: None,
                        });
                        wait
                    }
                    Err(error) => {
                        tracing::warn!(%error, "there are no new AWS credentials; they are fetched again in 10 s");
                        tell.send_modify(|latest| latest.failure = Some(error));
                        PAUSE
                    }
                };
                sleep(wait).await;
            }
        });
        Self { latest, task }
    }

    /// The credentials at hand. It blocks until the first fetch has ended, and never again.
    pub(crate) fn latest(&self, runtime: &Handle) -> Result<Credential, TokenError> {
        let latest = self.latest.borrow().clone();
        if latest.credential.is_some() || latest.failure.is_some() {
            return latest.at(Timestamp::now());
        }
        let mut first = self.latest.clone();
        let changed = runtime.block_on(async { timeout(PATIENCE, first.changed()).await });
        changed.map_err(|_| TokenError::Timeout)?.map_err(|_| {
            let ended = "whoever fetches them has ended";
            TokenError::Source(ended.to_owned())
        })?;
        let latest = first.borrow().clone();
        latest.at(Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn credential(ends_in: Option<i64>) -> Credential {
        let ends = ends_in.map(|seconds| Timestamp::now().as_second() + seconds);
        let ends = ends.map(|end| Timestamp::from_second(end).expect("a time").to_string());
        Credential {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "secret".into(),
            session_token: None,
            expires_in: ends.map(|end| end.parse().expect("a time")),
        }
    }

    #[test]
    fn credentials_are_fetched_anew_before_they_end() {
        let now = Timestamp::now();
        let kept = |ends_in| kept_for(&credential(ends_in), now).as_secs();
        assert!((3_299..=3_301).contains(&kept(Some(3_600))));
        assert_eq!(kept(Some(100)), 10);
        assert_eq!(kept(Some(-100)), 10);
        assert_eq!(kept(None), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_does_not_answer_holds_nobody_up() {
        let fetches = Arc::new(AtomicUsize::new(0));
        let count = fetches.clone();
        let renewal = Renewal::start(move || {
            let first = count.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                if !first {
                    std::future::pending::<()>().await;
                }
                Ok(credential(Some(60)))
            }
        });
        let renewal = Arc::new(renewal);
        let (asking, runtime) = (renewal.clone(), Handle::current());
        let first = tokio::task::spawn_blocking(move || asking.latest(&runtime));
        assert!(first.await.expect("it ends").is_ok());
        // The second fetch hangs, and later is told to have taken too long.
        while renewal.latest.borrow().failure.is_none() {
            assert!(renewal.latest(&Handle::current()).is_ok());
            sleep(Duration::from_secs(1)).await;
        }
        assert!(fetches.load(Ordering::Relaxed) > 1);
        assert!(renewal.latest(&Handle::current()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_have_ended_are_not_shown() {
        let renewal = Renewal::start(|| async { Ok(credential(Some(-1))) });
        let mut first = renewal.latest.clone();
        first.changed().await.expect("the task is there");
        let ended = renewal.latest(&Handle::current());
        assert!(matches!(ended, Err(TokenError::Timeout)), "{ended:?}");
    }
}
