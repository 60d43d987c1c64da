//! Damage that hides some events hides no others, and readers are told of it.

use super::*;

/// Three events of one partition.
fn records(sizes: [usize; 3]) -> [Record; 3] {
    sizes.map(|size| Record {
        key: "same".into(),
        ..record(7, size)
    })
}

/// What was appended in these batches, each of which is a block; the file after a change.
async fn damaged(
    batches: &[&[Record]],
    change: impl FnOnce(&mut Vec<u8>),
) -> (tempfile::TempDir, Embedded) {
    let (folder, clock) = (tempfile::tempdir().unwrap(), Manual::new());
    let bus = open(folder.path(), &clock);
    for batch in batches {
        bus.append(batch.to_vec()).await.unwrap();
    }
    bus.close();
    let path = folder.path().join(schema::FILE);
    let mut file = fs::read(&path).unwrap();
    change(&mut file);
    fs::write(&path, file).unwrap();
    assert!(!verify(folder.path()).unwrap().findings.is_empty());
    let bus = open(folder.path(), &clock);
    (folder, bus)
}

/// The second event cannot be read, and the others can.
async fn hides_the_second(bus: &Embedded, records: &[Record; 3]) {
    let partition = Partition {
        topic: records[0].topic.clone(),
        number: crate::partition_of(b"same", 3),
    };
    let read = |from| Read {
        from,
        tenant: None,
        limit: 9,
        scan: 9,
    };
    let page = bus.read(partition.clone(), read(0)).await.unwrap();
    assert_eq!((page.records.len(), page.next, page.more), (1, 1, true));
    let error = bus.read(partition.clone(), read(1)).await.unwrap_err();
    assert!(
        matches!(error, ReadError::Damaged { offset: 1, .. }),
        "{error}"
    );
    let page = bus.read(partition, read(2)).await.unwrap();
    assert_eq!((page.records.len(), page.next), (1, 3));
    assert_eq!(page.records[0].value, records[2].value);
    for (number, record) in (0..).zip(records) {
        let found = bus.find(record.tenant.clone(), record.event_id).await;
        if number == 1 {
            assert_eq!(found.map(drop), Err(error.clone()));
        } else {
            let found = found.unwrap().unwrap();
            assert_eq!((found.offset, found.value), (number, record.value.clone()));
        }
    }
}

#[tokio::test]
async fn a_page_of_an_event_that_is_gone_hides_that_event() {
    let emptied = |file: &mut Vec<u8>| {
        // A page that has nothing but a piece of the large event, behind the number of the next.
        let mut pages = file.chunks_exact_mut(4096);
        let page = pages.find(|page| page[4..].iter().all(|byte| *byte == 7));
        page.unwrap().fill(0);
    };
    let records = records([100, 20_000, 100]);
    let alone = records.each_ref().map(std::slice::from_ref);
    let (_folder, bus) = damaged(&alone, emptied).await;
    hides_the_second(&bus, &records).await;
}

#[tokio::test]
async fn a_block_that_is_no_longer_bytes_hides_its_event() {
    let retyped = |file: &mut Vec<u8>| {
        let content = "tenant1\nsame\na: b\n\n".len() + 20_000 + 1;
        // The head of its row: of a null, of the directory and of the content, each byte of which is 7 bits of a number.
        // Of an odd one it is text.
        let number = |bytes: usize| {
            let number = 2 * bytes + 12;
            [14, 7, 0].map(|shift| u8::try_from(number >> shift & 127).unwrap())
        };
        let [top, middle, low] = number(content);
        let [_, directory, rest] = number(44);
        assert_eq!(directory, 0);
        let head = [0, rest, top | 128, middle | 128, low];
        let at = file.windows(5).position(|bytes| bytes == head).unwrap();
        file[at + 4] |= 1;
    };
    let records = records([100, 20_000, 100]);
    let alone = records.each_ref().map(std::slice::from_ref);
    let (_folder, bus) = damaged(&alone, retyped).await;
    hides_the_second(&bus, &records).await;
}

#[tokio::test]
async fn what_stands_around_a_damaged_event_is_served_and_the_damage_is_named() {
    let mut records = records([0; 3]);
    for (record, value) in records.iter_mut().zip(["first", "second", "third"]) {
        record.value = Bytes::from_static(value.as_bytes());
    }
    let changed = |file: &mut Vec<u8>| {
        let at = file.windows(6).position(|it| it == b"second").unwrap();
        file[at] ^= 1;
    };
    let (folder, bus) = damaged(&[&records], changed).await;
    hides_the_second(&bus, &records).await;
    let findings = verify(folder.path()).unwrap().findings;
    assert_eq!(findings.len(), 1, "it is told of once: {findings:?}");
    let named = format!(
        "it is not what was written; it is event {}",
        records[1].event_id
    );
    assert!(findings[0].ends_with(&named), "{findings:?}");
}
