//! What is counted, in the Prometheus text format.

use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: String,
    status: u16,
}

/// Requests by route and status, with their latencies.
pub struct Metrics {
    registry: Mutex<Registry>,
    seconds: Family<Request, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
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
        Self {
            registry: Mutex::new(registry),
            seconds,
        }
    }
}

impl Metrics {
    pub(crate) fn request(&self, route: &str, status: u16, took: Duration) {
        let labels = Request {
            route: route.to_owned(),
            status,
        };
        self.seconds
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
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
