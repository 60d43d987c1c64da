//! How much a page holds, and what wakes a stream.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

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

/// How often whoever waits is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_stream_is_woken_by_its_own_tenants_events_only() {
    let clock = Clock::manual(1_700_000_000_000);
    let gateway = in_memory::gateway(&clock).await;
    let [quiet, loud] =
        ["quiet", "loud"].map(|tenant| on_behalf_of(Service::Audit, tenant.parse().unwrap()));
    let publish = |caller: &Caller| {
        gateway.publish(Command::one(caller.clone(), in_memory::draft("1"), None))
    };
    let (_, stream) = gateway.events.stream(&quiet, None, None).await.unwrap();
    let (mut stream, woken) = (pin!(stream), Arc::new(Woken::default()));
    let waker = Waker::from(woken.clone());
    let mut next = || stream.as_mut().poll_next(&mut Context::from_waker(&waker));
    let times = || woken.0.swap(0, Ordering::SeqCst);
    assert!(next().is_pending());
    let mut in_vain = 0;
    for _ in 0..100 {
        publish(&loud).await.unwrap();
        if times() > 0 {
            in_vain += 1;
            assert!(next().is_pending());
        }
    }
    assert_eq!(in_vain, 0);
    let published = publish(&quiet).await.unwrap();
    assert_eq!(times(), 1);
    let Poll::Ready(Some(Ok((_, event)))) = next() else {
        panic!("its own event does not come");
    };
    assert_eq!(event.event.event_id, published[0].event_id);
}
