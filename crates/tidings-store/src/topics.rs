//! How many partitions of each topic on Kafka count. (The embedded log keeps its own.)

use crate::pool::{Columns, Connections, on_either};
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

    /// How many partitions of a topic count of those that are `found` now: as many as were found when this was first asked,
    /// by whichever replica, or fewer while there are fewer.
    pub async fn count(&self, name: &str, found: u32) -> Result<u32, StoreError> {
        let new = TopicRow {
            name: name.to_owned(),
            partitions: found,
        };
        let kept = if let Some(kept) = self.get(name).await? {
            kept
        } else {
            self.add(&new).await?;
            // Another replica may have been first.
            self.get(name).await?.unwrap_or(new)
        };
        Ok(kept.partitions.min(found))
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

    async fn add(&self, row: &TopicRow) -> Result<(), StoreError> {
        let query = "INSERT INTO topics (name, partitions, crc) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO NOTHING";
        on_either!(self.connections, "write a topic", connection => {
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
    use crate::suite::on_each_database;

    #[tokio::test]
    async fn the_first_count_of_a_topic_stays() {
        on_each_database(async |store| {
            let topics = store.topics();
            for (name, found, counted) in [
                ("a", 12, 12),
                ("a", 24, 12),
                ("b", 24, 24),
                ("a", 6, 6),
                ("a", 24, 12),
            ] {
                assert_eq!(
                    topics.count(name, found).await.unwrap(),
                    counted,
                    "{name} {found}"
                );
            }
        })
        .await;
    }
}
