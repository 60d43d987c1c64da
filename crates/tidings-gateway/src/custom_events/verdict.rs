//! Whether something may be registered: pure, and the same for a registration and a dry run. All that speaks against
//! it is told, in the order of source D's table of codes.

use serde_json::Value;
use tidings_contract::custom::{
    self, Bump, CanonicalName, Difference, EventName, EventPath, MAX_PAYLOAD_BYTES, Namespace,
    Proposal, Schema, Version, judge,
};
use tidings_event::{Code, TenantId};
use tidings_store::CustomEventRow;

use super::{Plan, Status};
use crate::publish::refusal::{Fault, Refusal, Rule};

/// What somebody asks to register.
#[derive(Debug, Clone)]
pub struct Request {
    /// As it was given.
    pub namespace: String,
    /// As it was given.
    pub name: String,
    /// As it was given.
    pub version: String,
    /// Draft or published.
    pub status: Status,
    /// What it tells of.
    pub description: Option<String>,
    /// `payloadSchema`, as strict JSON text.
    pub schema: Box<str>,
    /// `payloadExample`, as strict JSON text.
    pub example: Option<Box<str>>,
}

/// What a request is held against.
#[derive(Debug)]
pub(super) struct Standing {
    /// Of the tenant's registrations; read before the rest.
    pub(super) revision: i64,
    /// The tenant's.
    pub(super) plan: Plan,
    /// Where the tenant may register.
    pub(super) namespaces: Vec<String>,
    /// How many distinct events the tenant has.
    pub(super) events: u64,
    /// The versions of the event, the oldest first.
    pub(super) rows: Vec<CustomEventRow>,
}

/// What is to be said of a request.
#[derive(Debug)]
pub struct Verdict {
    /// What it is called; `None` when namespace, name or version are not valid.
    pub called: Option<(EventPath, Version)>,
    /// Its schema, unless that is refused.
    pub schema: Option<Schema>,
    /// Which step the version is, unless it is none that may be taken.
    pub bump: Option<Bump>,
    /// The version it was held against.
    pub before: Option<Version>,
    /// What it changes of that version.
    pub differences: Vec<Difference>,
    /// What speaks against it, in the order of source D's table; nothing when it may be registered.
    pub faults: Vec<Fault>,
}

impl Verdict {
    /// What it is called in full, for a tenant.
    pub fn canonical_name(&self, tenant: &TenantId) -> Option<String> {
        let (path, version) = self.called.clone()?;
        let tenant = tenant.clone();
        let name = CanonicalName {
            tenant,
            path,
            version,
        };
        Some(name.to_string())
    }

    /// The refusal of a request that something speaks against.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let first = self.faults.first()?;
        let mut detail = first.detail.clone();
        if self.faults.len() > 1 {
            let more = self.faults.len() - 1;
            detail = format!("{} (and {more} more).", detail.trim_end_matches('.'));
        }
        let mut refusal = Refusal::new(first.code, Rule::Contract, detail);
        refusal.field = member(first.code).map(Box::from);
        refusal.errors.clone_from(&self.faults);
        Some(refusal)
    }
}

/// The member of a registration that a code is about, and that its path points into.
pub fn member(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::InvalidNamespace | Code::ReservedNamespace | Code::NamespaceNotAllowed => "namespace",
        Code::InvalidEventName | Code::CannotRegisterGenericEvent => "name",
        Code::InvalidVersionFormat
        | Code::VersionAlreadyExists
        | Code::VersionDowngrade
        | Code::VersionInvalidJump => "version",
        Code::PatchMustBeByteEqual
        | Code::MinorMustBeBackwardsCompatible
        | Code::SchemaTooDeep
        | Code::SchemaTooWide
        | Code::InvalidJsonSchema => "payloadSchema",
        Code::PayloadExampleDoesNotMatchSchema => "payloadExample",
        _ => return None,
    })
}

/// Decides. An error is ours: a version that stands could not be read.
pub(super) fn verdict(request: &Request, standing: &Standing) -> Result<Verdict, Refusal> {
    let mut faults = Vec::new();
    let mut valid = |fault: custom::Refusal| faults.push(told(fault));
    let namespace = Namespace::parse(&request.namespace).map_err(&mut valid);
    let name = EventName::parse(&request.name).map_err(&mut valid);
    let version = Version::parse(&request.version).map_err(&mut valid).ok();
    let path = match (namespace, name) {
        (Ok(namespace), Ok(name)) => Some(EventPath { namespace, name }),
        (Ok(namespace), Err(())) => {
            faults.extend(not_open(&namespace, standing));
            None
        }
        _ => None,
    };
    if let Some(path) = &path {
        let allowed: Vec<&str> = standing.namespaces.iter().map(String::as_str).collect();
        faults.extend(path.registrable(&allowed).map_err(told).err());
    }
    let (documents, unread) = documents(request);
    faults.extend(unread);
    let versions: Vec<Version> = standing.rows.iter().map(version_of).collect();
    let mut said = Verdict {
        called: path.zip(version),
        schema: None,
        bump: None,
        before: None,
        differences: Vec::new(),
        faults,
    };
    if let Some((schema, example)) = documents {
        let before = version.and_then(|version| version.follows(&versions).ok()?.1);
        let before = before
            .map(|before| schema_of(before, standing))
            .transpose()?;
        let proposal = Proposal {
            version,
            schema: &schema,
            example: example.as_ref(),
        };
        let judged = judge(&proposal, &versions, before.as_ref());
        said.faults.extend(judged.refusals.into_iter().map(told));
        said.schema = judged.schema;
        said.bump = judged.bump;
        said.before = judged.before;
        said.differences = judged.differences;
    }
    said.faults.extend(room(request, standing));
    if let (Status::Published, Some(version)) = (request.status, version) {
        said.faults
            .extend(behind_the_latest(version, standing.plan, &standing.rows));
    }
    said.faults.sort_by_key(|fault| place(fault.code));
    Ok(said)
}

/// Where a code stands in source D's table, whose order the table of codes keeps.
fn place(code: Code) -> usize {
    let found = Code::ALL.iter().position(|other| *other == code);
    found.unwrap_or(usize::MAX)
}

fn not_open(namespace: &Namespace, standing: &Standing) -> Option<Fault> {
    let allowed: Vec<&str> = standing.namespaces.iter().map(String::as_str).collect();
    namespace.registrable(&allowed).map_err(told).err()
}

type Documents = Option<(Value, Option<Value>)>;

/// The schema and the example, read. They were strict JSON when they came, so that only their depth can stand against it.
fn documents(request: &Request) -> (Documents, Option<Fault>) {
    let read = |text: &str| serde_json::from_str::<Value>(text);
    let unread = |code: Code, error: serde_json::Error| {
        Some(Fault::at(code, "", format!("It is not JSON: {error}.")))
    };
    let schema = match read(&request.schema) {
        Ok(schema) => schema,
        Err(error) => return (None, unread(Code::InvalidJsonSchema, error)),
    };
    let example = request.example.as_deref();
    if let Some(example) = example.filter(|example| example.len() > MAX_PAYLOAD_BYTES) {
        let (most, bytes) = (MAX_PAYLOAD_BYTES, example.len());
        let detail = format!("It has {bytes} bytes; {most} is the limit of a payload.");
        let fault = Fault::at(Code::PayloadExampleDoesNotMatchSchema, "", detail);
        return (Some((schema, None)), Some(fault));
    }
    match example.map(read).transpose() {
        Ok(example) => (Some((schema, example)), None),
        Err(error) => {
            let fault = unread(Code::PayloadExampleDoesNotMatchSchema, error);
            (Some((schema, None)), fault)
        }
    }
}

/// What all versions of an event may take together, in bytes: they are read whenever one is judged.
const MAX_VERSIONS_BYTES: usize = 8 << 20;
/// What a version takes beside its texts, in bytes: many small ones are long to read too.
const VERSION_BYTES: usize = 1024;

fn bytes_of(schema: &str, example: Option<&str>, description: Option<&str>) -> usize {
    let texts = [Some(schema), example, description];
    texts.into_iter().flatten().map(str::len).sum::<usize>() + VERSION_BYTES
}

/// Whether the plan has room for this event, and the event for this version.
fn room(request: &Request, standing: &Standing) -> Option<Fault> {
    let plan = standing.plan;
    let versions = standing.rows.iter().map(|row| {
        let (example, description) = (row.payload_example.as_deref(), row.description.as_deref());
        bytes_of(&row.payload_schema, example, description)
    });
    let (example, description) = (request.example.as_deref(), request.description.as_deref());
    let bytes = bytes_of(&request.schema, example, description) + versions.sum::<usize>();
    if bytes > MAX_VERSIONS_BYTES {
        let detail = format!(
            "All versions of an event take {MAX_VERSIONS_BYTES} bytes at most, each its schema, example and description \
             and {VERSION_BYTES} bytes more; go on under another name."
        );
        return Some(Fault {
            expected: Some(format!("at most {MAX_VERSIONS_BYTES} bytes")),
            got: Some(format!("{bytes} bytes")),
            ..Fault::at(Code::RegistrationQuotaExceeded, "", detail)
        });
    }
    if !plan.has_own_events() {
        let detail = format!(
            "The plan {} has no events of its own; BASIC has.",
            plan.as_str()
        );
        return Some(Fault::at(Code::PlanUpgradeRequired, "", detail));
    }
    let limit = plan.registrations()?;
    if !standing.rows.is_empty() || standing.events < limit {
        return None;
    }
    let detail = format!(
        "The plan {} has room for {limit} events, and {} are registered.",
        plan.as_str(),
        standing.events
    );
    Some(Fault {
        expected: Some(format!("at most {limit} events")),
        got: Some(format!("{} and this one", standing.events)),
        ..Fault::at(Code::RegistrationQuotaExceeded, "", detail)
    })
}

/// Where the latest version alone is in force, none behind it can be.
pub(super) fn behind_the_latest(
    version: Version,
    plan: Plan,
    rows: &[CustomEventRow],
) -> Option<Fault> {
    let latest = alone_in_force(plan, rows)?;
    (latest > version).then(|| {
        let detail = format!(
            "The plan {} has the latest version alone in force, and {latest} is published; PRO keeps every version.",
            plan.as_str()
        );
        Fault::at(Code::PlanUpgradeRequired, "", detail)
    })
}

/// The latest version that is published, where the plan has no other in force.
pub(super) fn alone_in_force(plan: Plan, rows: &[CustomEventRow]) -> Option<Version> {
    let published = rows
        .iter()
        .filter(|row| status_of(row) == Some(Status::Published));
    let latest = published.map(version_of).max();
    latest.filter(|_| plan.has_latest_alone())
}

fn schema_of(version: Version, standing: &Standing) -> Result<Schema, Refusal> {
    let row = standing.rows.iter().find(|row| version_of(row) == version);
    let text = row.map_or("", |row| row.payload_schema.as_str());
    Schema::read(text).map_err(|error| Refusal::fault("Reading a registered schema", &error))
}

/// The version of a row.
pub(super) fn version_of(row: &CustomEventRow) -> Version {
    let [major, minor, patch] = row.version;
    Version {
        major,
        minor,
        patch,
    }
}

/// The status of a row; `None` when this version does not know it.
pub(super) fn status_of(row: &CustomEventRow) -> Option<Status> {
    Status::parse(&row.status)
}

/// A refusal of the contract as it is told: a sentence, and the code of the table.
pub(crate) fn told(refusal: custom::Refusal) -> Fault {
    let mut detail = refusal.detail;
    if let Some(first) = detail.get(..1) {
        detail.replace_range(..1, &first.to_uppercase());
    }
    detail.push('.');
    Fault {
        expected: refusal.expected.map(Into::into),
        got: refusal.got.map(Into::into),
        counter_example: refusal.counter_example,
        ..Fault::at(code_of(refusal.code), refusal.pointer, detail)
    }
}

fn code_of(code: custom::Code) -> Code {
    use custom::Code as Decided;
    match code {
        Decided::InvalidNamespace => Code::InvalidNamespace,
        Decided::ReservedNamespace => Code::ReservedNamespace,
        Decided::NamespaceNotAllowed => Code::NamespaceNotAllowed,
        Decided::InvalidName => Code::InvalidEventName,
        Decided::InvalidVersionFormat => Code::InvalidVersionFormat,
        Decided::CannotRegisterGenericEvent => Code::CannotRegisterGenericEvent,
        Decided::VersionAlreadyExists => Code::VersionAlreadyExists,
        Decided::VersionDowngrade => Code::VersionDowngrade,
        Decided::VersionInvalidJump => Code::VersionInvalidJump,
        Decided::PatchMustBeByteEqual => Code::PatchMustBeByteEqual,
        Decided::MinorMustBeBackwardsCompatible => Code::MinorMustBeBackwardsCompatible,
        Decided::SchemaTooDeep => Code::SchemaTooDeep,
        Decided::SchemaTooWide => Code::SchemaTooWide,
        Decided::InvalidJsonSchema => Code::InvalidJsonSchema,
        Decided::PayloadExampleDoesNotMatchSchema => Code::PayloadExampleDoesNotMatchSchema,
        Decided::PayloadInvalid => Code::PayloadInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_room_for_so_many_bytes_of_versions() {
        let tenant: TenantId = "acme".parse().unwrap();
        let text = |bytes: usize| " ".repeat(bytes);
        let row = |schema, example, description| CustomEventRow {
            payload_schema: text(schema),
            payload_example: Some(text(example)),
            description: Some(text(description)),
            ..crate::custom_events::generic::row(&tenant, 0)
        };
        let standing = |rows| Standing {
            revision: 1,
            plan: Plan::Enterprise,
            namespaces: Vec::new(),
            events: 1,
            rows,
        };
        let request = |schema, example, description| Request {
            namespace: "a".into(),
            name: "b".into(),
            version: "1.0.1".into(),
            status: Status::Draft,
            description: Some(text(description)),
            schema: text(schema).into(),
            example: Some(text(example).into()),
        };
        let left = 10 + 2 * VERSION_BYTES;
        let most = MAX_VERSIONS_BYTES - left;
        let full = [(most, 0, 0), (0, most, 0), (0, 0, most), (most - 2, 1, 1)];
        for (schema, example, description) in full {
            let standing = standing(vec![row(schema, example, description)]);
            assert!(room(&request(8, 1, 1), &standing).is_none());
            for (schema, example, description) in [(9, 1, 1), (8, 2, 1), (8, 1, 2)] {
                let fault = room(&request(schema, example, description), &standing).unwrap();
                assert_eq!(fault.code, Code::RegistrationQuotaExceeded);
            }
        }
        let many = standing(vec![row(0, 0, 0); MAX_VERSIONS_BYTES / VERSION_BYTES]);
        assert!(room(&request(0, 0, 0), &many).is_some());
    }

    #[test]
    fn the_contracts_codes_are_those_of_the_table_in_its_order() {
        let codes = custom::Code::ALL.iter().map(|code| (*code, code_of(*code)));
        for (decided, code) in codes.clone() {
            assert_eq!(decided.as_str(), code.as_str());
        }
        let places: Vec<usize> = codes.map(|(_, code)| place(code)).collect();
        assert!(places.is_sorted(), "{places:?}");
    }
}
