-- How many partitions of each topic on Kafka hold events: a topic that gets more goes on with those.
CREATE TABLE topics (
    name       TEXT    NOT NULL PRIMARY KEY,
    partitions INTEGER NOT NULL,
    crc        INTEGER
) STRICT;
