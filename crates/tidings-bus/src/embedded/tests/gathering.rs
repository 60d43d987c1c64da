//! What is gathered on its way to the writer, and that nothing of it is left behind.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::*;

/// Begins to append, and does not wait for it.
async fn begun(bus: &Embedded, record: Record) {
    let mut append = pin!(bus.append(vec![record]));
    let polled = poll_fn(|context| Poll::Ready(append.as_mut().poll(context))).await;
    assert!(polled.is_pending());
}

#[tokio::test]
async fn what_the_tasks_of_a_thread_append_at_once_is_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Arc::new(open(folder.path(), &Manual::new()));
    bus.append(vec![record(0, 20)]).await.unwrap();
    let before = *bus.tail().borrow();
    let mut appends = tokio::task::JoinSet::new();
    for n in 1..=50 {
        let bus = Arc::clone(&bus);
        appends.spawn(async move { bus.append(vec![record(n, 20)]).await });
    }
    for appended in appends.join_all().await {
        assert_eq!(appended.unwrap().len(), 1);
    }
    assert_eq!(*bus.tail().borrow(), before + 1);
}

#[test]
fn what_is_gathered_when_its_runtime_ends_is_appended_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &Manual::new());
    runtime().block_on(begun(&bus, record(0, 20)));
    runtime().block_on(async {
        let next = bus.append(vec![record(1, 20)]);
        let next = tokio::time::timeout(Duration::from_mins(1), next).await;
        next.expect("it is not held up").unwrap();
        assert_eq!(content(&bus).await.unwrap().len(), 2);
    });
}

#[test]
fn an_append_within_a_runtime_that_has_ended_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &Manual::new());
    let ended = runtime();
    let handle = ended.handle().clone();
    drop(ended);
    // Whoever was to hand over is dropped where it is made.
    handle.block_on(bus.append(vec![record(0, 20)])).unwrap();
    runtime().block_on(async {
        bus.append(vec![record(1, 20)]).await.unwrap();
        assert_eq!(content(&bus).await.unwrap().len(), 2);
    });
}

#[tokio::test]
async fn what_is_much_does_not_wait_for_more() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &Manual::new());
    let before = *bus.tail().borrow();
    let many = || (0..600).map(|n| record(n, 20)).collect();
    let (first, second, third) =
        tokio::join!(bus.append(many()), bus.append(many()), bus.append(many()));
    for appended in [first, second, third] {
        assert_eq!(appended.unwrap().len(), 600);
    }
    assert!((1..=2).contains(&(*bus.tail().borrow() - before)));
    assert_eq!(content(&bus).await.unwrap().len(), 1_800);
}

#[test]
fn what_is_gathered_when_the_bus_is_closed_is_appended() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let bus = open(folder.path(), &Manual::new());
        begun(&bus, record(0, 20)).await;
        // In the task's own thread, so that whoever was to hand over has had no turn.
        bus.close();
        let bus = open(folder.path(), &Manual::new());
        assert_eq!(content(&bus).await.unwrap().len(), 1);
    });
}
