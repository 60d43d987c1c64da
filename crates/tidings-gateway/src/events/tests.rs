//! How much a page holds.

use tidings_event::Service;

use super::*;
use crate::access::on_behalf_of;
use crate::clock::Clock;
use crate::in_memory;
use crate::publish::command::Command;

#[tokio::test]
async fn a_page_of_large_events_ends_before_its_limit_and_the_next_goes_on_behind_it() {
    let clock = Clock::manual(1_700_000_000_000);
    let gateway = in_memory::gateway(&clock).await;
    let caller = on_behalf_of(Service::Audit, "acme".parse().unwrap());
    let data = format!(r#"{{"text":"{}"}}"#, "x".repeat(1_000_000));
    let mut published = Vec::new();
    for _ in 0..40 {
        clock.set(clock.now_ms() + 1);
        let command = Command::one(caller.clone(), in_memory::draft(&data), None);
        published.push(gateway.publish(command).await.unwrap()[0].event_id);
    }
    for types in [None, Some("audit.test.made".parse().unwrap())] {
        let mut query = Query {
            types,
            limit: MAX_PAGE,
            ..Query::default()
        };
        let (mut pages, mut seen) = (Vec::new(), Vec::new());
        loop {
            let page = gateway.events.list(&caller, &query).await.unwrap();
            pages.push(page.items.len());
            seen.extend(page.items.into_iter().map(|item| item.event.event_id));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(pages, [16, 16, 8]);
        assert_eq!(seen, published);
    }
}
