//! One file for each group of operations.

pub(crate) mod api_keys;
pub(crate) mod catalogs;
pub(crate) mod chat;
pub(crate) mod cloudevents;
pub(crate) mod custom_events;
pub(crate) mod dead_letters;
pub(crate) mod deliveries;
pub(crate) mod documents;
pub(crate) mod emits;
pub(crate) mod events;
pub(crate) mod extensions;
pub(crate) mod modules;
pub(crate) mod operations;
pub(crate) mod publish;
pub(crate) mod replays;
pub(crate) mod sessions;
pub(crate) mod subscriptions;
pub(crate) mod workspaces;
