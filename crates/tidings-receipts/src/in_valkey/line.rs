//! The line to the server: one connection that all calls share, made anew when it fails.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::{RETRY_AFTER, ReceiptsError};

/// No question is waited for longer, connecting included: the caller has promised an answer within 2 s.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How often one question is tried: a connection that died while idle shows only when it is used. The
/// scripts give the same token the same answer again.
const TRIES: usize = 2;

const SOURCES: [&str; 4] = [
    include_str!("claim.lua"),
    include_str!("look_up.lua"),
    include_str!("settle.lua"),
    include_str!("release.lua"),
];

/// One of the scripts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Script {
    Claim,
    LookUp,
    Settle,
    Release,
}

/// One call of a script, whose keys have one hash tag.
pub(super) struct Call {
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Vec<u8>>,
}

/// The connection, when there is one, with what the server calls our scripts.
struct Connected {
    connection: MultiplexedConnection,
    hashes: [String; SOURCES.len()],
}

/// The line.
pub(super) struct Line {
    client: Client,
    connected: RwLock<Option<Arc<Connected>>>,
    connecting: Mutex<()>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client knows the password.
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn new(url: &str) -> Result<Self, ReceiptsError> {
        let client = Client::open(url);
        Ok(Self {
            client: client.map_err(|error| ReceiptsError::Url(error.to_string()))?,
            connected: RwLock::default(),
            connecting: Mutex::default(),
        })
    }

    /// Runs a script once for each call, all in one round trip; what each returned, in order.
    pub(super) async fn run(
        &self,
        script: Script,
        calls: &[Call],
    ) -> Result<Vec<Vec<Vec<u8>>>, ReceiptsError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.asked(Question::Run(script, calls)).await?;
        let returned = values.into_iter().map(|value| match value {
            Value::Array(values) => values.into_iter().map(bytes).collect(),
            one => Ok(vec![bytes(one)?]),
        });
        returned.collect()
    }

    /// A command without arguments.
    pub(super) async fn command(&self, name: &str) -> Result<Vec<u8>, ReceiptsError> {
        self.single(&redis::cmd(name)).await
    }

    /// By which policy the server evicts keys when its memory is full, if it does.
    pub(super) async fn evicting(&self) -> Result<Option<String>, ReceiptsError> {
        let info = self.single(&memory()).await?;
        Ok(evicting(&String::from_utf8_lossy(&info)))
    }

    /// What stands under a key, empty when nothing does.
    pub(super) async fn get(&self, key: &str) -> Result<Vec<u8>, ReceiptsError> {
        self.single(redis::cmd("GET").arg(key)).await
    }

    async fn single(&self, command: &Cmd) -> Result<Vec<u8>, ReceiptsError> {
        let mut values = self.asked(Question::Single(command)).await?;
        bytes(values.pop().unwrap_or(Value::Nil))
    }

    /// Asks, on a new connection if the one there is fails. Answers within [`PATIENCE`].
    async fn asked(&self, question: Question<'_>) -> Result<Vec<Value>, ReceiptsError> {
        let deadline = Instant::now() + PATIENCE;
        let mut why = String::new();
        for _ in 0..TRIES {
            let line = match timeout_at(deadline, self.line()).await {
                Ok(Ok(line)) => line,
                Ok(Err(error)) => {
                    why = error.to_string();
                    continue;
                }
                Err(_) => {
                    "no connection in time".clone_into(&mut why);
                    break;
                }
            };
            match timeout_at(deadline, question.ask(&line)).await {
                Ok(Ok(values)) => return Ok(values),
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => "no answer in time".clone_into(&mut why),
            }
            self.give_up(&line);
        }
        tracing::warn!(why, "the server of the idempotency keys is not available");
        Err(ReceiptsError::Unavailable {
            retry_after: RETRY_AFTER,
        })
    }

    async fn line(&self) -> Result<Arc<Connected>, RedisError> {
        if let Some(connected) = self.current() {
            return Ok(connected);
        }
        let _alone = self.connecting.lock().await;
        if let Some(connected) = self.current() {
            return Ok(connected);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            // Ours is around every question.
            .set_response_timeout(None);
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut hashes = [const { String::new() }; SOURCES.len()];
        for (hash, source) in hashes.iter_mut().zip(SOURCES) {
            let mut load = redis::cmd("SCRIPT");
            *hash = load
                .arg("LOAD")
                .arg(source)
                .query_async(&mut connection)
                .await?;
        }
        match memory()
            .query_async::<String>(&mut connection)
            .await
            .map(|info| evicting(&info))
        {
            Ok(None) => {}
            Ok(Some(policy)) => tracing::warn!(
                policy,
                "the server of the idempotency keys forgets keys when its memory is full, and their events could be \
                 appended twice: set its maxmemory-policy to noeviction"
            ),
            // Not everybody may ask.
            Err(error) => tracing::debug!(%error, "the server does not say whether it evicts keys"),
        }
        let connected = Arc::new(Connected { connection, hashes });
        let mut current = self
            .connected
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Some(connected.clone());
        Ok(connected)
    }

    fn give_up(&self, doubtful: &Arc<Connected>) {
        let mut current = self
            .connected
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, doubtful))
        {
            *current = None;
        }
    }

    fn current(&self) -> Option<Arc<Connected>> {
        let current = self
            .connected
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

/// What a server is asked.
enum Question<'a> {
    Run(Script, &'a [Call]),
    Single(&'a Cmd),
}

impl Question<'_> {
    async fn ask(&self, line: &Connected) -> Result<Vec<Value>, RedisError> {
        let mut connection = line.connection.clone();
        let values = match self {
            Self::Single(command) => vec![connection.send_packed_command(command).await?],
            Self::Run(script, calls) => {
                let mut pipeline = Pipeline::with_capacity(calls.len());
                for call in *calls {
                    let command = pipeline.cmd("EVALSHA");
                    command
                        .arg(&line.hashes[*script as usize])
                        .arg(call.keys.len());
                    command.arg(&call.keys).arg(&call.arguments);
                }
                connection
                    .send_packed_commands(&pipeline, 0, calls.len())
                    .await?
            }
        };
        without_errors(values)
    }
}

/// A pipeline answers errors among its values: scripts forgotten by a restart, no memory, a replica that does
/// not write. A new connection loads the scripts, and may find the primary.
fn without_errors(values: Vec<Value>) -> Result<Vec<Value>, RedisError> {
    values.into_iter().map(Value::extract_error).collect()
}

fn memory() -> Cmd {
    let mut info = redis::cmd("INFO");
    info.arg("memory");
    info
}

/// The policy of a server with a bound on its memory, unless it then refuses to write.
fn evicting(info: &str) -> Option<String> {
    let of = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let bounded = of("maxmemory").is_some_and(|bytes| bytes != "0");
    let policy = of("maxmemory_policy").filter(|policy| bounded && *policy != "noeviction");
    policy.map(str::to_owned)
}

fn bytes(value: Value) -> Result<Vec<u8>, ReceiptsError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        Value::Nil => Ok(Vec::new()),
        other => Err(ReceiptsError::Unreadable(format!("{other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_evicts_when_its_memory_is_bounded_and_its_policy_says_so() {
        for (bytes, policy, evicts) in [
            ("0", "allkeys-lru", false),
            ("1048576", "allkeys-lru", true),
            ("1048576", "volatile-ttl", true),
            ("1048576", "noeviction", false),
        ] {
            let info = format!(
                "# Memory\r\nused_memory:1\r\nmaxmemory:{bytes}\r\nmaxmemory_policy:{policy}\r\n"
            );
            assert_eq!(evicting(&info), evicts.then(|| policy.to_owned()), "{info}");
        }
        assert_eq!(evicting(""), None);
    }
}
