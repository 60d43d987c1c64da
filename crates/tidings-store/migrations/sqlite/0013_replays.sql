-- What tenants have asked to be sent again: history to one subscription, or dead letters. The plan never changes;
-- state, place and counts do, while it runs.
CREATE TABLE replays (
    id            TEXT    NOT NULL PRIMARY KEY,
    tenant        TEXT    NOT NULL,
    subscription  TEXT,
    plan          TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    place         TEXT    NOT NULL,
    total         INTEGER,
    sent          INTEGER NOT NULL,
    delivered     INTEGER NOT NULL,
    failed        INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    ended_at_ms   INTEGER,
    crc           INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX replays_of_tenant ON replays (tenant, id);
CREATE INDEX replays_by_state ON replays (state, id);
