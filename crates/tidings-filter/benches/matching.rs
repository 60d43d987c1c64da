//! What matching an event costs: 1,000,000 subscriptions of 10,000 tenants beside 100 of one tenant, by turns; once with
//! every event of one tenant, once with each of another, whose subscriptions no cache holds.
//!
//! `make bench-match` prints the table. Each tenant has 100 subscriptions, one in five by a wildcard, half with a clause
//! on the data; an event fits the types of 22 of them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tidings_event::json::RawJson;
use tidings_event::{Data, Event, TenantId};
use tidings_filter::{Filter, Index, Subject};
use uuid::Uuid;

const OF_TENANT: usize = 100;
const ROUNDS: usize = 9;
const MATCHES: u32 = 20_000;
/// A stride that visits every tenant, far from each other.
const APART: usize = 7_919;

fn filter(number: usize) -> Filter {
    let types = match number % 10 {
        0 => json!(["crm.**"]),
        1 => json!(["crm.deal.*"]),
        _ => json!([format!("crm.deal.closed{}", number % 50)]),
    };
    let document = match number % 2 {
        0 => json!({ "types": types, "data": [{ "pointer": "/amount", "gt": 10 * number }] }),
        _ => json!({ "types": types }),
    };
    Filter::parse(&document).expect("a filter")
}

fn event() -> Event {
    let data = r#"{"amount":500,"deal":{"id":"d-1","title":"A deal of some length"}}"#;
    Event {
        event_id: Uuid::nil(),
        id: "e-1".into(),
        source: "/shop/7".into(),
        event_type: "crm.deal.closed7".parse().expect("a type"),
        tenant: "acme".parse().expect("a tenant"),
        schema_version: "1.0.0".parse().expect("a version"),
        time: "2026-01-01T00:00:00.000Z".into(),
        received_at_ms: 0,
        traceparent: None,
        subject: None,
        data_schema: None,
        data_content_type: None,
        extensions: Vec::new(),
        data: Data::Json(RawJson::parse(data).expect("JSON").0),
    }
}

/// The subscriptions of so many tenants, by their numbers.
struct Subscriptions {
    tenants: Vec<TenantId>,
    index: Index<u32>,
    filters: Vec<Arc<Filter>>,
}

impl Subscriptions {
    fn new(tenants: usize) -> Self {
        let name = |number: usize| format!("tenant-{number}").parse().expect("a tenant");
        let mut all = Self {
            tenants: (0..tenants).map(name).collect(),
            index: Index::default(),
            filters: Vec::new(),
        };
        for tenant in &all.tenants {
            for number in 0..OF_TENANT {
                let filter = filter(number);
                let key = u32::try_from(all.filters.len()).expect("fewer");
                all.index.insert(tenant, filter.types(), &key);
                all.filters.push(Arc::new(filter));
            }
        }
        all
    }

    /// Nanoseconds of one match, and how many matched. The next event is of the tenant so many further on.
    fn measure(&self, event: &Event, stride: usize) -> (f64, usize) {
        let (mut tenant, mut matched) = (0, 0);
        let begun = Instant::now();
        for _ in 0..MATCHES {
            tenant = (tenant + stride) % self.tenants.len();
            let subject = Subject::new(event);
            let wanting = self.index.wanting(&self.tenants[tenant], &event.event_type);
            let holds = |key: &&u32| self.filters[**key as usize].holds_beside_types(&subject);
            matched += black_box(wanting.iter().filter(holds).count());
        }
        (nanos(begun.elapsed() / MATCHES), matched / MATCHES as usize)
    }
}

#[expect(clippy::cast_precision_loss, reason = "of a duration that is printed")]
fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let event = event();
    let (few, many) = (Subscriptions::new(1), Subscriptions::new(10_000));
    let mut figures = [const { Vec::new() }; 3];
    let mut matched = 0;
    for _ in 0..ROUNDS {
        for (column, (all, stride)) in [(&few, 0), (&many, 0), (&many, APART)].iter().enumerate() {
            let (nanos, count) = all.measure(&event, *stride);
            figures[column].push(nanos);
            matched = count;
        }
    }
    let [few, same, another] = figures.map(median);
    println!("subscriptions  tenants  each event of   matched  ns/event  ratio");
    for (subscriptions, tenants, whose, nanos) in [
        (100, 1, "the tenant", few),
        (1_000_000, 10_000, "one tenant", same),
        (1_000_000, 10_000, "another tenant", another),
    ] {
        let ratio = nanos / few;
        println!(
            "{subscriptions:>13}  {tenants:>7}  {whose:<14}  {matched:>7}  {nanos:>8.0}  {ratio:>5.2}"
        );
    }
}
