-- What tenants have asked to be sent again: history to one subscription, or dead letters. The plan never changes;
-- state, place and counts do, while it runs.
CREATE TABLE replays (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant        TEXT COLLATE "C" NOT NULL,
    subscription  TEXT COLLATE "C",
    plan          TEXT   NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,
    place         TEXT   NOT NULL,
    total         BIGINT,
    sent          BIGINT NOT NULL,
    delivered     BIGINT NOT NULL,
    failed        BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    started_at_ms BIGINT,
    ended_at_ms   BIGINT,
    crc           BIGINT
);

CREATE INDEX replays_of_tenant ON replays (tenant, id);
CREATE INDEX replays_by_state ON replays (state, id);
