-- How many partitions of each topic on Kafka hold events: a topic that gets more goes on with those.
CREATE TABLE topics (
    name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    partitions BIGINT NOT NULL,
    crc        BIGINT
);
