//! What the regular expressions of a schema cost when a text is matched with them.
//!
//! The engine turns an expression into a table as it goes, state by state, and then takes a look-up for each byte. Where the
//! table would become too large it follows all states of the expression side by side instead, which may cost a
//! thousand times as much. So the table is made here once, when the schema is read, and what has a small one is cheap.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::error::Error as _;

use regex_automata::Input;
use regex_automata::hybrid::dfa::DFA;
use regex_automata::nfa::thompson::{Config, NFA, WhichCaptures};
use regex_automata::util::alphabet::Unit;

/// What is spent on making the tables of a schema, in states looked at: some ten milliseconds.
const WORK: usize = 2_000_000;
/// What is spent on one of them, however many they are.
const LEAST_WORK: usize = 20_000;
/// To compile a state costs as much as to look at so many.
const COMPILING: usize = 50;
/// What a state of a compiled expression takes, in bytes.
const STATE_BYTES: usize = 24;

/// The states of the regular expressions that have no small table; one that is not here takes a look-up for each byte.
pub(crate) type Patterns = HashMap<String, usize>;

/// Finds the expressions that have no small table, as far as the work that is spent on it goes: the rest has none. Each takes
/// `most` bytes compiled, at most, and its table as many.
///
/// What the short ones leave is the long ones': one that is costly is to leave something for the others.
pub(crate) fn wild<'p>(patterns: impl IntoIterator<Item = &'p str>, most: usize) -> Patterns {
    let patterns: BTreeSet<(usize, &str)> = patterns.into_iter().map(|it| (it.len(), it)).collect();
    let (mut work, mut left) = (WORK, patterns.len());
    let mut wild = Patterns::new();
    for (_, pattern) in patterns {
        let share = (work / left).max(LEAST_WORK);
        let mut rest = share;
        if let Err(states) = table(pattern, most, &mut rest) {
            wild.insert(pattern.to_owned(), states);
        }
        work = work.saturating_sub(share - rest);
        left -= 1;
    }
    wild
}

/// Makes the table of an expression; the number of its states where there is none.
fn table(pattern: &str, most: usize, work: &mut usize) -> Result<(), usize> {
    let unknown = most / STATE_BYTES;
    if *work == 0 {
        return Err(unknown);
    }
    let forwards = automaton(pattern, false, (most, work)).ok_or(unknown)?;
    let states = forwards.states().len();
    // One that may begin anywhere may be matched from its end.
    let backwards = !forwards.is_always_start_anchored();
    let small = is_small(forwards, most, work)
        && (!backwards
            || automaton(pattern, true, (most, work)).is_some_and(|it| is_small(it, most, work)));
    if small { Ok(()) } else { Err(states) }
}

/// The expression as the engine compiles it, for reading forwards or backwards.
fn automaton(pattern: &str, backwards: bool, (most, work): (usize, &mut usize)) -> Option<NFA> {
    let pattern = jsonschema_regex::to_rust_regex(pattern).ok()?;
    let config = Config::new()
        .nfa_size_limit(Some(most))
        .reverse(backwards)
        .which_captures(WhichCaptures::None);
    let automaton = NFA::compiler().configure(config).build(&pattern).ok();
    let states = automaton.as_ref().map(|it| it.states().len());
    *work = work.saturating_sub(COMPILING * states.unwrap_or(most / STATE_BYTES));
    automaton
}

/// Why an expression that takes `most` bytes compiled, at most, is not taken.
pub(super) fn why_not(pattern: &str, most: usize) -> String {
    let translated = jsonschema_regex::to_rust_regex(pattern);
    // What is not translated is told in the engine's words too, where it has any.
    let engines = translated.as_deref().unwrap_or(pattern);
    let config = Config::new().nfa_size_limit(Some(most));
    let fault = match NFA::compiler().configure(config).build(engines) {
        Err(fault) if fault.size_limit().is_none() => fault,
        Ok(_) if translated.is_err() => return "it is not well-formed".to_owned(),
        _ => return "it becomes too large; repetitions must stay small".to_owned(),
    };
    // The engine draws where it stopped, and says why in the last line.
    let said = fault.source().map(ToString::to_string).unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    let why = last
        .strip_prefix("error: ")
        .unwrap_or("it is not well-formed");
    why.to_owned()
}

fn is_small(automaton: NFA, most: usize, work: &mut usize) -> bool {
    let config = DFA::config().cache_capacity(most);
    let Ok(table) = DFA::builder().configure(config).build_from_nfa(automaton) else {
        return false;
    };
    let mut cache = table.create_cache();
    let bytes = table.byte_classes().representatives(0_u8..=255);
    let bytes: Vec<u8> = bytes.filter_map(Unit::as_u8).collect();
    let row = size_of::<u32>() * bytes.len().next_power_of_two();
    let Ok(start) = table.start_state_forward(&mut cache, &Input::new("")) else {
        return false;
    };
    let mut seen = HashSet::from([start]);
    let mut waiting = vec![start];
    while let Some(state) = waiting.pop() {
        for byte in &bytes {
            // A state of the table is a list of states of the expression.
            let list = (cache.memory_usage() / seen.len()).saturating_sub(row);
            *work = work.saturating_sub(16 + list / 8);
            let Ok(next) = table.next_state(&mut cache, state, *byte) else {
                return false;
            };
            if *work == 0 || next.is_quit() || cache.clear_count() > 0 {
                return false;
            }
            // The engine stops at the first match.
            if !next.is_dead() && !next.is_match() && seen.insert(next) {
                waiting.push(next);
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_has_a_small_table_and_what_explodes_has_none() {
        for pattern in [
            r"^\S",
            r"\S$",
            "^[0-9a-f]{64}$",
            "^[a-z0-9-]+$",
            r"^\S+@\S+\.\S+$",
            r"^\d{4}-\d{2}-\d{2}$",
            "^(red|green|blue)$",
            "^(a+)+$",
            r"^\p{L}+$",
            "^.{1,100}$",
            r"^https?://[^\s/]+(/\S*)?$",
        ] {
            assert_eq!(wild([pattern], 1 << 20), Patterns::new(), "{pattern}");
        }
        for pattern in [
            "a[ab]{30}$",
            "[ab]*a[ab]{20}c",
            "[a-m][a-z]{5000}[0-9]",
            "c[ab]{20}a[ab]*$",
            r"(\p{L}{1,9} ){1,9}x",
        ] {
            let states = wild([pattern], 1 << 20).get(pattern).copied();
            assert!(states.is_some_and(|states| states > 10), "{pattern}");
        }
    }
}
