//! The first two steps: what the event is called, and whether this caller may publish it. Pure.

use tidings_contract::custom::EventPath;
use tidings_event::{Code, EventType, Service, TenantId, owner_of};

use super::Trail;
use super::command::{Command, Custom, Draft, Emit};
use super::refusal::{Refusal, Rule};
use crate::access::{Caller, Principal, Scope};
use crate::rulebook::{Carried, Rulebook};

/// An event whose type is known to be one.
pub(super) struct Shaped {
    pub(super) event_type: EventType,
    pub(super) draft: Draft,
}

/// Events with their types, of which each may have been refused already.
pub(crate) struct ShapedCommand {
    pub(super) entries: Vec<Result<Shaped, Refusal>>,
    pub(super) caller: Caller,
    pub(super) traceparent: Option<String>,
    pub(super) alone: bool,
}

/// Events that the caller may publish, for its tenant.
pub(crate) struct Authorised {
    pub(super) entries: Vec<Result<Shaped, Refusal>>,
    pub(super) caller: Caller,
    pub(super) tenant: TenantId,
    pub(super) traceparent: Option<String>,
    pub(super) alone: bool,
}

/// Reads each event's type.
pub(crate) fn shape(command: Command, trail: &mut Trail) -> ShapedCommand {
    let entries = command.drafts.into_iter().map(|draft| {
        let draft = draft?;
        let event_type = if draft.custom.is_some() {
            EventType::recorded(&draft.event_type)
        } else {
            draft.event_type.parse()
        };
        let event_type = event_type
            .map_err(|error| Refusal::shape(Code::InvalidEventType, "type", format!("{error}.")))?;
        trail.pass(Rule::Shape, || format!("'{event_type}' is an event type."));
        Ok(Shaped { event_type, draft })
    });
    ShapedCommand {
        entries: entries.collect(),
        caller: command.caller,
        traceparent: command.traceparent,
        alone: command.alone,
    }
}

/// Asks of each event whether the caller may publish it.
pub(crate) fn authorise(
    shaped: ShapedCommand,
    rulebook: &Rulebook,
    trail: &mut Trail,
) -> Result<Authorised, Refusal> {
    let ShapedCommand {
        entries,
        caller,
        traceparent,
        alone,
    } = shaped;
    let allowed = |entry: Result<Shaped, Refusal>| {
        let entry = entry?;
        match &entry.draft.custom {
            None => {}
            Some(Custom::Told) => return Ok(entry),
            Some(Custom::Emit(emit)) => {
                emitter(&caller, &entry.event_type, emit, trail)?;
                return Ok(entry);
            }
        }
        kernel_namespace(&caller, &entry.event_type, trail)?;
        let workspace = entry.draft.workspace_named();
        if let Some(workspace) = &workspace {
            rulebook.workspace_of(&caller, workspace)?;
        }
        if entry.draft.workspace.is_some() {
            member(&caller, &entry.event_type, rulebook, trail)?;
        } else {
            declared(&caller, &entry.event_type, rulebook, trail)?;
        }
        Ok(entry)
    };
    let entries: Vec<Result<Shaped, Refusal>> = entries.into_iter().map(allowed).collect();
    match caller.tenant().cloned() {
        Some(tenant) => Ok(Authorised {
            entries,
            caller,
            tenant,
            traceparent,
            alone,
        }),
        // Nothing without a tenant passes `declared`, so there is a refusal to answer with.
        None => Err(whole(entries, alone)
            .err()
            .unwrap_or_else(|| may_publish_nothing(&caller))),
    }
}

/// All of a batch, or one refusal for it.
pub(super) fn whole<T>(entries: Vec<Result<T, Refusal>>, alone: bool) -> Result<Vec<T>, Refusal> {
    let mut good = Vec::with_capacity(entries.len());
    let mut refusals = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match entry {
            Ok(entry) => good.push(entry),
            Err(refusal) => refusals.push((index, refusal)),
        }
    }
    Refusal::of_batch(refusals, alone).map_or(Ok(good), Err)
}

fn kernel_namespace(
    caller: &Caller,
    event_type: &EventType,
    trail: &mut Trail,
) -> Result<(), Refusal> {
    let Some(owner) = owner_of(event_type) else {
        trail.pass(Rule::KernelNamespace, || {
            format!("'{event_type}' is not a kernel event.")
        });
        return Ok(());
    };
    if *caller.principal() == Principal::Service(owner) {
        trail.pass(Rule::KernelNamespace, || {
            format!("'{event_type}' belongs to service '{owner}'.")
        });
        return Ok(());
    }
    Err(Refusal::new(
        Code::KernelEventPublishForbidden,
        Rule::KernelNamespace,
        format!(
            "{} is not permitted to publish kernel event '{event_type}'.",
            caller.describe()
        ),
    )
    .field("type"))
}

/// What a tenant has registered, its own may emit: whoever acts in it, and keys with a scope for the event, by its
/// canonical name or as if its type were `<namespace>.<name>`.
fn emitter(
    caller: &Caller,
    event_type: &EventType,
    emit: &Emit,
    trail: &mut Trail,
) -> Result<(), Refusal> {
    // Otherwise it is appended on behalf of who was asked before.
    if let Some(registered) = &emit.registered {
        let path = &registered.name.path;
        may_emit(caller, path, Some(event_type))?;
        trail.pass(Rule::Manifest, || {
            format!(
                "{} may emit '{path}' of its organisation.",
                caller.describe()
            )
        });
    }
    Ok(())
}

/// Whether a caller may emit an event, and for which tenant. Without a canonical name: whether any version of it.
pub(crate) fn may_emit(
    caller: &Caller,
    path: &EventPath,
    canonical: Option<&EventType>,
) -> Result<TenantId, Refusal> {
    let Some(tenant) = caller.tenant() else {
        return Err(may_publish_nothing(caller).field("name"));
    };
    let covered = match caller.principal() {
        Principal::ApiKey { scopes, .. } => {
            let plain = path.to_string().parse::<EventType>().ok();
            scopes.iter().any(|scope| {
                let Scope::Publish(pattern) = scope else {
                    return false;
                };
                let plain = plain.as_ref().is_some_and(|plain| pattern.matches(plain));
                plain || canonical.map_or(pattern.is_one_segment(), |it| pattern.matches(it))
            })
        }
        Principal::Extension { .. } => false,
        _ => true,
    };
    if covered {
        return Ok(tenant.clone());
    }
    Err(forbidden(format!(
        "{} is not permitted to emit '{path}'; none of its scopes covers it.",
        caller.describe()
    ))
    .field("name"))
}

/// In a workspace that is open to the caller any type may be published that no catalogue holds for its sender.
fn member(
    caller: &Caller,
    event_type: &EventType,
    rulebook: &Rulebook,
    trail: &mut Trail,
) -> Result<(), Refusal> {
    let rule = match rulebook.enforced(event_type) {
        Some(carried) => by_catalog(caller, event_type, carried)?,
        None => format!("{} may publish in the workspace.", caller.describe()),
    };
    trail.pass(Rule::Manifest, || rule);
    Ok(())
}

fn declared(
    caller: &Caller,
    event_type: &EventType,
    rulebook: &Rulebook,
    trail: &mut Trail,
) -> Result<(), Refusal> {
    let rule = match caller.principal() {
        Principal::Module(module) => {
            if let Some(carried) = rulebook.enforced(event_type) {
                by_catalog(caller, event_type, carried)?
            } else {
                by_manifest(caller, module, event_type, rulebook)?;
                format!("The manifest of module '{module}' declares '{event_type}'.")
            }
        }
        Principal::Service(service) if owner_of(event_type) == Some(*service) => {
            format!("Service '{service}' publishes its own namespace.")
        }
        Principal::Service(service) => return Err(only_its_own(*service, event_type)),
        Principal::ApiKey { module, scopes, .. } => {
            let granted = scopes.iter().find_map(|scope| match scope {
                Scope::Publish(pattern) if pattern.matches(event_type) => Some(pattern),
                _ => None,
            });
            let Some(pattern) = granted else {
                return Err(forbidden(format!(
                    "{} is not permitted to publish '{event_type}'; none of its scopes covers it.",
                    caller.describe()
                )));
            };
            let scope = format!("The key's scope publish:{pattern} covers '{event_type}'.");
            match (rulebook.enforced(event_type), module) {
                (Some(carried), _) => {
                    let sender = by_catalog(caller, event_type, carried)?;
                    format!("{scope} {sender}")
                }
                (None, Some(module)) => {
                    by_manifest(caller, module, event_type, rulebook)?;
                    scope
                }
                (None, None) => scope,
            }
        }
        Principal::User(_) | Principal::Operator(_) | Principal::Extension { .. } => {
            return Err(may_publish_nothing(caller));
        }
    };
    trail.pass(Rule::Manifest, || rule);
    Ok(())
}

fn by_manifest(
    caller: &Caller,
    module: &tidings_event::ModuleId,
    event_type: &EventType,
    rulebook: &Rulebook,
) -> Result<(), Refusal> {
    let why = match rulebook.manifest(module) {
        None => format!("module '{module}' has no manifest"),
        Some(manifest) if manifest.publishes.is_empty() => {
            format!("the manifest of module '{module}' has no events.publishes")
        }
        Some(manifest) if manifest.publishes.contains(event_type) => return Ok(()),
        Some(_) => format!("it is not in events.publishes of the manifest of module '{module}'"),
    };
    Err(forbidden(format!(
        "{} is not permitted to publish '{event_type}': {why}.",
        caller.describe()
    )))
}

/// A catalogue that is enforced counts as the declaration, and its sender alone may publish.
fn by_catalog(
    caller: &Caller,
    event_type: &EventType,
    carried: &Carried,
) -> Result<String, Refusal> {
    let catalog = &carried.catalog;
    let Some(sender) = &carried.sender else {
        return Ok(format!(
            "Catalogue '{catalog}' lets any module publish '{event_type}'."
        ));
    };
    if caller.module().is_some_and(|own| own.as_str() == sender) {
        return Ok(format!(
            "Catalogue '{catalog}' names '{sender}' as the sender of '{event_type}'."
        ));
    }
    Err(forbidden(format!(
        "{} is not permitted to publish '{event_type}': catalogue '{catalog}' names '{sender}' as \
         its only sender.",
        caller.describe()
    )))
}

fn only_its_own(service: Service, event_type: &EventType) -> Refusal {
    forbidden(format!(
        "Service '{service}' is not permitted to publish '{event_type}'; a kernel service publishes \
         its own namespace only."
    ))
}

fn may_publish_nothing(caller: &Caller) -> Refusal {
    forbidden(format!(
        "{} is not permitted to publish events; use the token of a module, or an API key with a \
         publish scope.",
        caller.describe()
    ))
}

fn forbidden(detail: String) -> Refusal {
    Refusal::new(Code::EventPublishForbidden, Rule::Manifest, detail).field("type")
}
