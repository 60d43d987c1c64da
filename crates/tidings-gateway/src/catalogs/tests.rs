//! Catalogues in the store that cannot be read.

use super::*;
use crate::access::on_behalf_of;
use crate::{Gateway, in_memory};
use tidings_event::Service;

/// A catalogue that carries one type.
fn document(event_type: &str) -> String {
    format!(
        r#"{{"asyncapi":"3.0.0","info":{{"title":"t","version":"1.0.0"}},"channels":{{"a":{{"address":"{event_type}",
            "messages":{{"m":{{"contentType":"application/json","payload":true}}}}}}}}}}"#
    )
}

async fn store(store: &Store, name: &str, document: String, version: i64) {
    let row = CatalogRow {
        name: name.parse().unwrap(),
        document,
        enforce: true,
        version,
        changed_at_ms: version,
    };
    assert!(store.catalogs().put(&row, &[]).await.unwrap());
}

/// The catalogues in force, with their revisions.
fn in_force(gateway: &Gateway) -> Vec<(String, i64)> {
    let listed = gateway.catalogs.list().into_iter();
    let each = listed.map(|one| (one.name.to_string(), one.applied.revision));
    each.collect()
}

fn named(name: &str, revision: i64) -> (String, i64) {
    (name.to_owned(), revision)
}

#[tokio::test]
async fn one_that_cannot_be_read_leaves_the_others_in_force_and_is_written_over() {
    let (clock, kept) = (Clock::manual(1), Store::in_memory().await.unwrap());
    store(&kept, "shop", document("shop.order.placed"), 1).await;
    store(&kept, "torn", "{".to_owned(), 1).await;
    let parts = in_memory::parts_on(Arc::new(in_memory::bus(&clock)), kept.clone(), &clock).await;
    let gateway = Gateway::open(parts).await.unwrap();
    assert_eq!(in_force(&gateway), [named("shop", 1)]);
    let readiness = gateway.readiness().await;
    assert!(readiness.is_ready());
    let [said] = &readiness.unread[..] else {
        panic!("{:?}", readiness.unread);
    };
    assert!(said.starts_with("catalogue torn: "), "{said}");
    let unread = crate::damaged::unread_documents(&kept).await.unwrap();
    assert_eq!(unread, readiness.unread);

    // What was in force before stays, be it that a newer version wrote what this one cannot read.
    store(&kept, "shop", "{".to_owned(), 2).await;
    store(&kept, "abc", document("abc.thing.made"), 1).await;
    gateway.catalogs.reload().await.unwrap();
    assert_eq!(in_force(&gateway), [named("abc", 1), named("shop", 1)]);
    assert_eq!(gateway.readiness().await.unread.len(), 2);

    let registry = on_behalf_of(Service::ModuleRegistry, TenantId::platform());
    let put = async |name: &str, document: &str| {
        let name = name.parse().unwrap();
        gateway.catalogs.put(&registry, &name, document, true).await
    };
    let same = document("shop.order.placed");
    assert!(put("shop", &same).await.unwrap().changed);
    assert!(
        put("torn", &document("torn.thing.mended"))
            .await
            .unwrap()
            .changed
    );
    assert!(!put("shop", &same).await.unwrap().changed);
    let all = [named("abc", 1), named("shop", 2), named("torn", 1)];
    assert_eq!(in_force(&gateway), all);
    assert!(gateway.readiness().await.unread.is_empty());
    let rows = kept.catalogs().list().await.unwrap().rows;
    assert_eq!(rows.len(), 3);
}
