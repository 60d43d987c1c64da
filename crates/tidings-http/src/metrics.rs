//! What is counted, in the Prometheus text format.

use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tidings_gateway::deliver::counted::{AttemptOutcome, Behind, Counted, Laggard};
use tidings_gateway::supervised::Restarts;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    status: u16,
}

/// The templates of all operations, so that a path becomes a label without growing their number.
const ROUTES: [&str; 66] = [
    "/v1/events/publish",
    "/v1/events/publish/batch",
    "/v1/cloudevents",
    "/v1/events",
    "/v1/events/stream",
    "/v1/events/explain",
    "/v1/events/{eventId}",
    "/v1/events/{eventId}/trace",
    "/v1/events/{eventId}/explain",
    "/v1/events/custom/registrations",
    "/v1/events/custom/registrations/{namespace}/{name}",
    "/v1/events/custom/registrations/{namespace}/{name}/diff",
    "/v1/events/custom/registrations/{namespace}/{name}/{version}",
    "/v1/events/custom/dry-run",
    "/v1/events/custom/emit",
    "/v1/events/custom/emits",
    "/v1/events/custom/health",
    "/v1/subscriptions",
    "/v1/subscriptions/{subscriptionId}",
    "/v1/subscriptions/{subscriptionId}/pause",
    "/v1/subscriptions/{subscriptionId}/resume",
    "/v1/subscriptions/{subscriptionId}/seek",
    "/v1/subscriptions/{subscriptionId}/skip-backlog",
    "/v1/subscriptions/{subscriptionId}/secret",
    "/v1/subscriptions/{subscriptionId}/rotate-secret",
    "/v1/subscriptions/{subscriptionId}/events",
    "/v1/subscriptions/{subscriptionId}/parked",
    "/v1/subscriptions/{subscriptionId}/parked/release",
    "/v1/dead-letters",
    "/v1/dead-letters/replay",
    "/v1/dead-letters/{deadLetterId}",
    "/v1/dead-letters/{deadLetterId}/replay",
    "/v1/replays",
    "/v1/replays/{replayId}",
    "/v1/replays/{replayId}/cancel",
    "/v1/replays/{replayId}/resume",
    "/v1/subscriptions/{subscriptionId}/replay",
    "/v1/subscriptions/{subscriptionId}/test",
    "/v1/modules",
    "/v1/modules/{moduleId}/manifest",
    "/v1/catalogs",
    "/v1/catalogs/{name}",
    "/asyncapi.json",
    "/v1/api-keys",
    "/v1/api-keys/{keyId}",
    "/api/session",
    "/v1/tenants",
    "/v1/tenants/{tenantId}",
    "/v1/tenants/{tenantId}/workspaces/{workspaceId}",
    "/v1/tenants/{tenantId}/workspaces/{workspaceId}/members/{userId}",
    "/api/workspaces/{workspaceId}/events/publish",
    "/api/workspaces/{workspaceId}/extensions/{extensionId}",
    "/api/workspaces/{workspaceId}/extensions/{extensionId}/rotate-secret",
    "/api/workspaces/{workspaceId}/extensions/{extensionId}/deliveries",
    "/api/workspaces/{workspaceId}/extensions/{extensionId}/subscriptions/{eventKey}",
    "/api/workspaces/{workspaceId}/dead-letters",
    "/api/workspaces/{workspaceId}/dead-letters/replay",
    "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}",
    "/api/workspaces/{workspaceId}/dead-letters/{deadLetterId}/replay",
    "/api/workspaces/{workspaceId}/channels/{channel}/messages",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/problems/{slug}",
];

/// The template that a path fits, found as axum finds it, or `none`.
pub(crate) fn route_of(path: &str) -> &'static str {
    static FOUND_BY: LazyLock<matchit::Router<&str>> = LazyLock::new(|| {
        let mut routes = matchit::Router::new();
        for template in ROUTES {
            let inserted = routes.insert(template, template);
            inserted.expect("no two templates fit the same paths");
        }
        routes
    });
    FOUND_BY.at(path).map_or("none", |found| found.value)
}

/// Requests by route and status, with their latencies.
pub struct Metrics {
    registry: Mutex<Registry>,
    seconds: Family<Request, Histogram>,
    skipped: Counter,
}

impl Metrics {
    /// With these of deliveries, and of loops that were begun again.
    pub fn new(deliveries: Arc<Counted>, restarts: Arc<Restarts>) -> Self {
        const BUCKETS: [f64; 12] = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        ];
        let seconds =
            Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        let mut registry = Registry::with_prefix("tidings");
        registry.register(
            "http_request_seconds",
            "Time to answer, by route and status",
            seconds.clone(),
        );
        let skipped = Counter::default();
        registry.register(
            "events_skipped",
            "Events that were checked and kept nowhere, because the bus is disabled",
            skipped.clone(),
        );
        registry.register_collector(Box::new(Deliveries(deliveries)));
        registry.register_collector(Box::new(Loops(restarts)));
        Self {
            registry: Mutex::new(registry),
            seconds,
            skipped,
        }
    }

    pub(crate) fn request(&self, path: &str, status: u16, took: Duration) {
        let labels = Request {
            route: route_of(path),
            status,
        };
        self.seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// Counts those that a disabled bus skipped.
    pub(crate) fn skipped(&self, each: impl IntoIterator<Item = bool>) {
        let skipped = each.into_iter().filter(|skipped| *skipped).count();
        if skipped > 0 {
            self.skipped.inc_by(skipped as u64);
        }
    }

    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// What the dispatchers count, read when it is asked for.
#[derive(Debug)]
struct Deliveries(Arc<Counted>);

impl Collector for Deliveries {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let attempts = ConstCounter::new(0_u64);
        let mut family = encoder.encode_descriptor(
            "delivery_attempts",
            "Attempts to deliver that have ended, by outcome",
            None,
            attempts.metric_type(),
        )?;
        for outcome in AttemptOutcome::ALL {
            let labels = [("outcome", outcome.as_str())];
            ConstCounter::new(self.0.attempts(outcome)).encode(family.encode_family(&labels)?)?;
        }
        let letters = ConstCounter::new(self.0.dead_letters());
        let help = "Deliveries that were given up and became dead letters";
        let kind = letters.metric_type();
        letters.encode(encoder.encode_descriptor("dead_letters", help, None, kind)?)?;
        let restarts = ConstCounter::new(self.0.restarts());
        let help = "Dispatchers that panicked and were replaced";
        let kind = restarts.metric_type();
        let descriptor = encoder.encode_descriptor("delivery_restarts", help, None, kind)?;
        restarts.encode(descriptor)?;
        let damages = ConstCounter::new(self.0.damages());
        let help = "Damaged rows and records that deliveries passed over, each once an hour";
        let kind = damages.metric_type();
        let descriptor = encoder.encode_descriptor("delivery_damages", help, None, kind)?;
        damages.encode(descriptor)?;
        let removals = ConstCounter::new(self.0.removals());
        let help =
            "Offsets of the log that retention removed before a subscription had read on to them";
        let kind = removals.metric_type();
        let descriptor = encoder.encode_descriptor("delivery_removed_unread", help, None, kind)?;
        removals.encode(descriptor)?;
        let unables = ConstCounter::new(self.0.unables());
        let help = "Hand-overs that could not be begun for want of files or memory";
        let kind = unables.metric_type();
        unables.encode(encoder.encode_descriptor("delivery_unable", help, None, kind)?)?;
        let motion = self.0.motion();
        for (name, help, number) in [
            (
                "delivery_attempts_in_flight",
                "Attempts to deliver on their way",
                motion.in_flight,
            ),
            (
                "delivery_pending_at_hand",
                "Deliveries that failed or waited for their key, are due, and are in memory",
                motion.at_hand,
            ),
            (
                "delivery_unsettled_events",
                "Events read from the log that the saved places may not pass yet",
                motion.unsettled,
            ),
            (
                "delivery_shares",
                "Shares of the tenants that this process delivers for",
                motion.shares,
            ),
        ] {
            let gauge = ConstGauge::new(number);
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        self.encode_behind(&mut encoder)
    }
}

impl Deliveries {
    /// What waits of subscriptions that do not keep up.
    fn encode_behind(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Number = fn(Behind) -> u64;
        let metrics: [(_, _, Number); 3] = [
            (
                "delivery_behind_subscriptions",
                "Subscriptions that do not keep up, by the reason",
                |it| it.subscriptions,
            ),
            (
                "delivery_behind_events",
                "Events that they have still to get, at most",
                |it| it.events,
            ),
            (
                "delivery_behind_oldest_timestamp_seconds",
                "When the oldest of these was received, or 0",
                |it| {
                    it.oldest_ms
                        .map_or(0, |ms| u64::try_from(ms / 1_000).unwrap_or_default())
                },
            ),
        ];
        for (name, help, number) in metrics {
            let kind = ConstGauge::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for laggard in Laggard::ALL {
                let labels = [("reason", laggard.as_str())];
                let number = ConstGauge::new(number(self.0.behind(laggard)));
                number.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// What is counted of the other loops, read when it is asked for.
#[derive(Debug)]
struct Loops(Arc<Restarts>);

impl Collector for Loops {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let restarts = ConstCounter::new(self.0.count());
        let help = "Loops beside the dispatchers that panicked and were begun again";
        let kind = restarts.metric_type();
        restarts.encode(encoder.encode_descriptor("loop_restarts", help, None, kind)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_label() {
        let document: serde_json::Value =
            serde_json::from_str(&crate::openapi::document("http://x")).unwrap();
        let paths = document["paths"].as_object().unwrap();
        for path in paths.keys() {
            assert_eq!(route_of(path), path);
        }
        assert_eq!(paths.len(), ROUTES.len());
        assert_eq!(route_of("/v1/events/0190"), "/v1/events/{eventId}");
        assert_eq!(route_of("/elsewhere"), "none");
    }
}
