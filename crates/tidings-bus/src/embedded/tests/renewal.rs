//! The WAL is moved into the file as it grows, and begun anew.

use super::*;

/// What changes whenever the WAL is begun anew: the salt of its header.
fn salt(folder: &Path) -> Vec<u8> {
    let wal = fs::read(folder.join("bus.db-wal")).unwrap();
    wal[16..24].to_vec()
}

#[tokio::test]
async fn a_wal_over_its_bound_is_begun_anew_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(folder.path(), &Manual::new());
    let mut appended = 0;
    for _ in 0..3 {
        bus.append(vec![record(appended, 50_000)]).await.unwrap();
        appended += 1;
        let before = salt(folder.path());
        while salt(folder.path()) == before {
            assert!(appended < 2_000, "it only grows");
            bus.append(vec![record(appended, 50_000)]).await.unwrap();
            appended += 1;
        }
    }
    bus.close();
    let bus = open(folder.path(), &Manual::new());
    assert_eq!(content(&bus).await.unwrap().len(), appended as usize);
}
