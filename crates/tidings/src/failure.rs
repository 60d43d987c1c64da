//! How a command ends: its exit code, and what a person reads when it did not succeed.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Error;
use serde_json::Value;
use tidings_client::{Error as ClientError, Problem};

use crate::config::colours_wanted;
use crate::output::{note, paint, plain};

/// Printed below the help of the whole program.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  it was done
  1  it was refused or failed
  2  the command line is wrong
  3  the gateway cannot be reached

Client commands take the gateway's address from --url or TIDINGS_URL and the credential from
--token or TIDINGS_TOKEN, or both from a profile: [NAME] with url and token in
~/.config/tidings/profiles.toml, named by --profile or TIDINGS_PROFILE. Results are a table on a terminal and JSON lines in a pipe; -o chooses.
NO_COLOR turns colours off.";

/// So many places are shown; JSON has all of them.
const MAX_PLACES: usize = 20;

const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

/// The command line is wrong in a way that its parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// What was to be said has been said already.
#[derive(Debug, thiserror::Error)]
#[error("it was refused")]
pub(crate) struct Reported;

/// Says what went wrong and what to do, and gives the exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    // The reader of the pipe has seen enough, as with `| head`.
    let gone = |cause: &(dyn std::error::Error + 'static)| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    };
    if error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| gone(error))
    {
        return ExitCode::SUCCESS;
    }
    if !error.is::<Reported>() {
        let colours = io::stderr().is_terminal() && colours_wanted();
        let mut lines = said(error).into_iter();
        if let Some(first) = lines.next() {
            let name = paint(colours, "31", "tidings:");
            note(&format!("{name} {}", plain(&first)));
        }
        lines.for_each(|line| note(&format!("  {}", plain(&line))));
    }
    ExitCode::from(code(error))
}

fn code(error: &Error) -> u8 {
    if error.is::<Usage>() {
        return USAGE;
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Unreachable { .. }) => UNREACHABLE,
        Some(ClientError::Configuration(_)) => USAGE,
        _ => REFUSED,
    }
}

/// An error with its causes; what one says already of its own is not said again.
pub(crate) fn in_full(error: &Error) -> String {
    let mut said = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if said.is_empty() {
            said = cause;
        } else if !said.ends_with(&cause) {
            said.extend([": ", &cause]);
        }
    }
    said
}

/// The fault first, then its code, then what to do next.
fn said(error: &Error) -> Vec<String> {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(problem)) => refused(problem),
        Some(ClientError::Unreachable { .. }) => vec![
            in_full(error),
            "next: start the gateway with 'tidings serve', or name its address with --url or \
             TIDINGS_URL"
                .to_owned(),
        ],
        Some(ClientError::Unexpected { .. }) => vec![
            in_full(error),
            "next: check with --url that this is the address of a Tidings gateway".to_owned(),
        ],
        Some(ClientError::Configuration(_)) | None => vec![in_full(error)],
    }
}

fn refused(problem: &Problem) -> Vec<String> {
    let sentence = if problem.detail.is_empty() {
        &problem.title
    } else {
        &problem.detail
    };
    let mut lines = vec![
        sentence.clone(),
        format!("code: {} ({})", problem.code, problem.status),
    ];
    lines.extend(places(problem));
    if let Some(payload) = problem.members.get("counterExample") {
        lines.push(format!("accepted before, refused now: {payload}"));
    }
    if problem.status >= 500
        && let Some(trace) = &problem.trace_id
    {
        lines.push(format!("trace: {trace}"));
    }
    lines.push(format!("next: {}", next(problem)));
    lines
}

/// Each place where something is wrong.
fn places(problem: &Problem) -> Vec<String> {
    let errors = problem.members.get("errors").and_then(Value::as_array);
    let mut lines = Vec::new();
    for error in errors.into_iter().flatten().take(MAX_PLACES) {
        let text = |name: &str| error.get(name).and_then(Value::as_str);
        if let (Some(path), Some(detail)) = (text("path"), text("detail")) {
            let place = format!("{}{path}", text("field").unwrap_or_default());
            let place = if place.is_empty() {
                "the whole"
            } else {
                &place
            };
            lines.push(format!("{place}: {detail}"));
        }
    }
    // One place alone is in the sentence already.
    if lines.len() < 2 {
        lines.clear();
    }
    lines
}

/// What a person at a terminal can do about it.
fn next(problem: &Problem) -> String {
    let advice = match (problem.code.as_str(), problem.status) {
        ("UNAUTHENTICATED", _) | (_, 401) => {
            "make a fresh token with 'tidings token' and set TIDINGS_TOKEN to it"
        }
        ("EVENT_PUBLISH_FORBIDDEN", _) => {
            "declare the type in the module's manifest ('tidings modules apply FILE'), or use a \
             credential of the module that declares it, or that its catalogue names as the sender"
        }
        ("KERNEL_EVENT_PUBLISH_FORBIDDEN", _) => {
            "use a type outside the kernel's namespaces, or the credential of its service"
        }
        ("IDEMPOTENCY_KEY_REUSED", _) => "take another --key for another event",
        ("cannot_archive_generic_event", _) => {
            "leave it as it is, every tenant has it; archive versions of events of your own"
        }
        (_, 403) => "use a credential that may do this; see 'tidings token --help'",
        (_, 404) => "check the id; what belongs to another tenant is not found either",
        (_, 429 | 503 | 507) => match problem.retry_after {
            Some(wait) => return format!("try again in {} s", wait.as_secs()),
            None => "try again a little later",
        },
        (_, 500..) => "look for the trace id in the gateway's log",
        _ => "",
    };
    match advice {
        "" if problem.kind.is_empty() => "correct the request and try again".to_owned(),
        "" => format!("{} explains it", problem.kind),
        advice => advice.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problem(status: u16, code: &str) -> Error {
        let problem = json!({"status": status, "code": code, "detail": "No.", "traceId": "t1",
            "type": "http://x/problems/y"});
        let problem: Problem = serde_json::from_value(problem).unwrap();
        ClientError::Refused(Box::new(problem)).into()
    }

    #[test]
    fn a_cause_is_said_once() {
        let denied = || std::io::Error::other("denied");
        let error = Error::new(denied()).context("the key cannot be read: denied");
        assert_eq!(in_full(&error), "the key cannot be read: denied");
        let error = Error::new(denied()).context("no key").context("no token");
        assert_eq!(in_full(&error), "no token: no key: denied");
    }

    #[test]
    fn the_detail_comes_first_then_the_code_then_what_to_do() {
        let check = |status, code: &str, expect: &str| {
            let lines = said(&problem(status, code));
            assert_eq!(lines[0], "No.");
            assert_eq!(lines[1], format!("code: {code} ({status})"));
            let last = lines.last().unwrap();
            assert!(
                last.starts_with("next: ") && last.contains(expect),
                "{last}"
            );
        };
        check(401, "UNAUTHENTICATED", "tidings token");
        check(403, "EVENT_PUBLISH_FORBIDDEN", "modules apply");
        check(403, "cannot_archive_generic_event", "leave it as it is");
        check(422, "IDEMPOTENCY_KEY_REUSED", "--key");
        check(400, "INVALID_EVENT", "http://x/problems/y");
        check(503, "events.broker.unavailable", "try again a little later");
        let many = json!({"status": 422, "code": "EVENT_SCHEMA_VIOLATION", "detail": "No.", "errors": [
            {"path": "/a", "detail": "wrong"}, {"path": "", "detail": "missing"}]});
        let many: Problem = serde_json::from_value(many).unwrap();
        let many = said(&ClientError::Refused(Box::new(many)).into());
        assert_eq!(many[2..4], ["/a: wrong", "the whole: missing"]);
        let narrower = json!({"status": 400, "code": "minor_must_be_backwards_compatible", "detail": "No.",
            "counterExample": {"a": 1}, "errors": [
                {"field": "payloadSchema", "path": "/a", "detail": "wrong"},
                {"field": "name", "path": "", "detail": "none"}]});
        let narrower: Problem = serde_json::from_value(narrower).unwrap();
        let narrower = said(&ClientError::Refused(Box::new(narrower)).into());
        let expected = [
            "payloadSchema/a: wrong",
            "name: none",
            r#"accepted before, refused now: {"a":1}"#,
        ];
        assert_eq!(narrower[2..5], expected);
        assert!(said(&problem(500, "INTERNAL")).contains(&"trace: t1".to_owned()));
    }

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        let unreachable = ClientError::Unreachable {
            url: "u".into(),
            may_have_arrived: false,
            source: "refused".into(),
        };
        assert_eq!(code(&unreachable.into()), 3);
        assert_eq!(code(&ClientError::Configuration("x".into()).into()), 2);
        assert_eq!(code(&Usage("x".into()).into()), 2);
        assert_eq!(code(&problem(403, "FORBIDDEN")), 1);
        assert_eq!(code(&anyhow::anyhow!("x")), 1);
    }
}
