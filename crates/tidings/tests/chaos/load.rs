//! Writers that publish without pause, each retrying an unanswered publish with its own key, and
//! the judgement of what the log must hold afterwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use crate::server::{Answer, Connection, Server, list};

const WRITERS: usize = 8;

/// What became of one attempt.
pub(crate) struct Attempt {
    pub(crate) key: String,
    pub(crate) sent: Instant,
    /// `None`: the connection broke first.
    pub(crate) answer: Option<Answer>,
}

impl Attempt {
    pub(crate) fn is_acknowledged(&self) -> bool {
        matches!(&self.answer, Some(answer) if matches!(answer.status, 200 | 201))
    }
}

#[derive(Clone, PartialEq)]
enum Target {
    /// Writers wait.
    Down,
    Up(String),
    Stopped,
}

struct Gate {
    target: Mutex<Target>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, target: Target) {
        *self.target.lock().unwrap() = target;
        self.changed.notify_all();
    }

    /// Where to publish, `None` at the end.
    fn address(&self) -> Option<String> {
        let target = self.target.lock().unwrap();
        let target = self
            .changed
            .wait_while(target, |target| *target == Target::Down)
            .unwrap();
        match &*target {
            Target::Up(address) => Some(address.clone()),
            Target::Down | Target::Stopped => None,
        }
    }
}

/// The running writers, and what was acknowledged to them.
pub(crate) struct Load {
    gate: Arc<Gate>,
    attempts: Receiver<Attempt>,
    writers: Vec<JoinHandle<()>>,
    pub(crate) acknowledged: HashMap<String, String>,
}

impl Load {
    pub(crate) fn start(server: &Server, token: &str) -> Self {
        let target = Mutex::new(Target::Up(server.address.clone()));
        let gate = Arc::new(Gate {
            target,
            changed: Condvar::new(),
        });
        let (report, attempts) = channel();
        let writer = |number| {
            let (gate, report, token) = (Arc::clone(&gate), report.clone(), token.to_owned());
            std::thread::spawn(move || write(number, &gate, &token, &report))
        };
        let writers = (0..WRITERS).map(writer).collect();
        Self {
            gate,
            attempts,
            writers,
            acknowledged: HashMap::new(),
        }
    }

    /// The next attempt's outcome, remembered if it is an acknowledgement.
    pub(crate) fn next(&mut self) -> Attempt {
        let attempt = self.attempts.recv().unwrap();
        self.remember(&attempt);
        attempt
    }

    fn remember(&mut self, attempt: &Attempt) {
        if let (true, Some(answer)) = (attempt.is_acknowledged(), &attempt.answer) {
            let event_id = answer.body["eventId"].as_str().unwrap().to_owned();
            let before = self
                .acknowledged
                .insert(attempt.key.clone(), event_id.clone());
            assert!(
                before.is_none_or(|before| before == event_id),
                "{} has two ids",
                attempt.key
            );
        }
    }

    pub(crate) fn until_acknowledged(&mut self, count: u64) {
        let mut done = 0;
        while done < count {
            done += u64::from(self.next().is_acknowledged());
        }
    }

    /// No new attempts until [`Self::resume`].
    pub(crate) fn pause(&self) {
        self.gate.set(Target::Down);
    }

    pub(crate) fn resume(&self, server: &Server) {
        self.gate.set(Target::Up(server.address.clone()));
    }

    /// Ends the writers and gives what they had not told yet.
    pub(crate) fn stop(&mut self) -> Vec<Attempt> {
        self.gate.set(Target::Stopped);
        for writer in self.writers.drain(..) {
            writer.join().unwrap();
        }
        let rest: Vec<Attempt> = self.attempts.try_iter().collect();
        for attempt in &rest {
            self.remember(attempt);
        }
        rest
    }

    /// Asserts that nothing acknowledged is lost, nothing is twice, and no offset is missing.
    pub(crate) fn judge(&self, test: &str, rounds: u64, server: &Server, token: &str) {
        let events = list(server, token);
        let mut by_key: HashMap<&str, Vec<&str>> = HashMap::new();
        let mut offsets: BTreeMap<(&str, u64), Vec<u64>> = BTreeMap::new();
        for event in &events {
            let is_text = |value: &Value| value.as_str().is_some();
            assert!(
                is_text(&event["eventId"]) && is_text(&event["data"]["key"]),
                "{event}"
            );
            let key = event["data"]["key"].as_str().unwrap();
            by_key
                .entry(key)
                .or_default()
                .push(event["eventId"].as_str().unwrap());
            let topic = event["topic"].as_str().unwrap();
            let partition = event["partition"].as_u64().unwrap();
            let offset = event["offset"].as_u64().unwrap();
            offsets.entry((topic, partition)).or_default().push(offset);
        }
        let mut connection = Connection::open(&server.address, token).unwrap();
        let mut lost = 0;
        for (key, id) in &self.acknowledged {
            let read = connection.get(&format!("/v1/events/{id}")).unwrap();
            let listed = by_key
                .get(key.as_str())
                .is_some_and(|ids| ids.contains(&id.as_str()));
            let whole = read.status == 200 && read.body["data"]["key"] == key.as_str();
            lost += usize::from(!listed || !whole);
        }
        let repeated: Vec<_> = by_key.iter().filter(|(_, ids)| ids.len() > 1).collect();
        for (key, ids) in &repeated {
            let twice = events.iter().filter(|event| event["data"]["key"] == **key);
            let places = twice.map(|event| &event["offset"]).collect::<Vec<_>>();
            println!("{test}: {key} stands at {places:?} as {ids:?}");
        }
        let duplicates = repeated.len();
        let acknowledged = self.acknowledged.len();
        println!(
            "{test}: rounds {rounds}, acknowledged {acknowledged}, lost {lost}, \
             duplicates {duplicates}"
        );
        assert_eq!((lost, duplicates), (0, 0));
        for (place, mut offsets) in offsets {
            offsets.sort_unstable();
            assert!(
                offsets.iter().copied().eq(0..offsets.len() as u64),
                "gap in {place:?}"
            );
        }
    }
}

fn write(writer: usize, gate: &Gate, token: &str, report: &Sender<Attempt>) {
    let mut connection: Option<Connection> = None;
    for number in 0_u64.. {
        let key = format!("w{writer}-{number}");
        loop {
            let Some(address) = gate.address() else {
                return;
            };
            if connection.is_none() {
                connection = Connection::open(&address, token).ok();
            }
            let Some(open) = &mut connection else {
                continue;
            };
            let sent = Instant::now();
            let answer = open.publish(&key).ok();
            if answer.is_none() {
                connection = None;
            }
            let attempt = Attempt {
                key: key.clone(),
                sent,
                answer,
            };
            let done = attempt.is_acknowledged();
            if report.send(attempt).is_err() {
                return;
            }
            if done {
                break;
            }
        }
    }
}
