//! How many partitions of each topic on Kafka count. (The embedded log keeps its own.)

use crate::pool::{Columns, Connections, on_either, writing_on_either};
use crate::seal::{Seal, Sealed};
use crate::{StoreError, attempting, whole};

/// A topic as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRow {
    /// What it is called on the brokers.
    pub name: String,
    /// How many of its partitions hold events.
    pub partitions: u32,
}

/// The methods on topics.
#[derive(Debug, Clone, Copy)]
pub struct Topics<'a> {
    connections: &'a Connections,
}

impl<'a> Topics<'a> {
    pub(crate) fn new(connections: &'a Connections) -> Self {
        Self { connections }
    }

    /// How many partitions of a topic count: as many as were `found` when this was first asked, by whichever replica. Of one
    /// that is `new` and holds nothing, those that were found now.
    pub async fn count(&self, name: &str, found: u32, new: bool) -> Result<u32, StoreError> {
        let row = TopicRow {
            name: name.to_owned(),
            partitions: found,
        };
        if !new && let Some(kept) = self.get(name).await? {
            return Ok(kept.partitions);
        }
        self.put(&row, new).await?;
        // Another replica may have been first.
        Ok(self.get(name).await?.unwrap_or(row).partitions)
    }

    async fn get(&self, name: &str) -> Result<Option<TopicRow>, StoreError> {
        on_either!(self.connections, "read a topic", connection => {
            sqlx::query("SELECT * FROM topics WHERE name = $1")
                .bind(name)
                .fetch_optional(connection)
                .await
                .map(|row| row.map(|row| TopicRow::from_row(&row)).transpose())
        })?
    }

    async fn put(&self, row: &TopicRow, again: bool) -> Result<(), StoreError> {
        let query = if again {
            "INSERT INTO topics (name, partitions, crc) VALUES ($1, $2, $3) ON CONFLICT (name) \
             DO UPDATE SET partitions = excluded.partitions, crc = excluded.crc"
        } else {
            "INSERT INTO topics (name, partitions, crc) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO NOTHING"
        };
        writing_on_either!(self.connections, "write a topic", connection => {
            sqlx::query(query)
                .bind(&row.name)
                .bind(i64::from(row.partitions))
                .bind(row.seal())
                .execute(connection)
                .await
                .map(drop)
        })
    }
}

impl Sealed for TopicRow {
    const TABLE: &'static str = "topics";
    const ALL: &'static str = "SELECT * FROM topics";

    fn seal(&self) -> i64 {
        let seal = Seal::of(Self::TABLE).text(&self.name);
        seal.number(self.partitions.into()).finish()
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn from_columns(row: &impl Columns) -> Result<Self, StoreError> {
        let unread = || attempting("read a topic");
        Ok(Self {
            name: row.text("name").map_err(unread())?,
            partitions: whole(row, "of a topic", "partitions")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use crate::suite::{on_each_database, sqlite};

    #[tokio::test]
    async fn the_first_count_of_a_topic_stays_until_it_is_made_again() {
        on_each_database(async |store| {
            let topics = store.topics();
            for (name, found, new, counted) in [
                ("a", 12, false, 12),
                ("a", 24, false, 12),
                ("b", 24, true, 24),
                ("a", 6, false, 12),
                ("a", 6, true, 6),
                ("a", 24, false, 6),
            ] {
                let told = topics.count(name, found, new).await.unwrap();
                assert_eq!(told, counted, "{name} {found} {new}");
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_damaged_count_is_told_of_and_not_believed() {
        let store = Store::in_memory().await.unwrap();
        let topics = store.topics();
        topics.count("a", 12, false).await.unwrap();
        let pool = sqlite(&store);
        let damage = sqlx::query("UPDATE topics SET partitions = 13");
        damage.execute(pool).await.unwrap();
        let refused = topics.count("a", 12, false).await.unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
        assert_eq!(topics.count("b", 3, false).await.unwrap(), 3);
    }
}
