-- A table that is its own index (WITHOUT ROWID) is for small rows. These have documents, payloads and whole events in
-- them: each look-up read such rows on its way down, a large one page by page into memory, and each further index repeated
-- the key. So the rows stand in the order of their coming, and their keys in an index beside them. What was read from an
-- index alone because the key stood in it still is: the attempts of an event name theirs.

CREATE TABLE moving (
    id            TEXT    NOT NULL PRIMARY KEY,
    tenant        TEXT    NOT NULL,
    document      TEXT    NOT NULL,
    secrets       TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    reason        TEXT,
    revision      INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    change        INTEGER NOT NULL DEFAULT 0,
    crc           INTEGER
) STRICT;
INSERT INTO moving SELECT * FROM subscriptions ORDER BY id;
DROP TABLE subscriptions;
ALTER TABLE moving RENAME TO subscriptions;
CREATE INDEX subscriptions_of_tenant ON subscriptions (tenant, id);

CREATE TABLE moving (
    subscription  TEXT    NOT NULL,
    sequence      INTEGER NOT NULL,
    number        INTEGER NOT NULL,
    tenant        TEXT    NOT NULL,
    event_id      TEXT    NOT NULL,
    started_at_ms INTEGER NOT NULL,
    outcome       TEXT    NOT NULL,
    detail        TEXT    NOT NULL,
    crc           INTEGER,
    PRIMARY KEY (subscription, sequence, number)
) STRICT;
INSERT INTO moving SELECT * FROM delivery_attempts ORDER BY subscription, sequence, number;
DROP TABLE delivery_attempts;
ALTER TABLE moving RENAME TO delivery_attempts;
CREATE INDEX attempts_of_event ON delivery_attempts (event_id, subscription, sequence, number);
CREATE INDEX attempts_by_time ON delivery_attempts (started_at_ms);

CREATE TABLE moving (
    id            TEXT    NOT NULL PRIMARY KEY,
    tenant        TEXT    NOT NULL,
    subscription  TEXT    NOT NULL,
    sequence      INTEGER NOT NULL,
    event_id      TEXT    NOT NULL,
    event_type    TEXT    NOT NULL,
    event         TEXT    NOT NULL,
    attempts      INTEGER NOT NULL,
    last_error    TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL,
    state         TEXT    NOT NULL,
    crc           INTEGER
) STRICT;
INSERT INTO moving SELECT * FROM dead_letter_event ORDER BY id;
DROP TABLE dead_letter_event;
ALTER TABLE moving RENAME TO dead_letter_event;
CREATE INDEX dead_letters_of_tenant ON dead_letter_event (tenant, id);
CREATE INDEX dead_letters_of_delivery ON dead_letter_event (subscription, sequence);
CREATE INDEX dead_letters_closed ON dead_letter_event (created_at_ms) WHERE state = 'closed';

CREATE TABLE moving (
    event_id        TEXT    NOT NULL PRIMARY KEY,
    tenant          TEXT    NOT NULL,
    idempotency_key TEXT    NOT NULL,
    fingerprint     TEXT    NOT NULL,
    event_type      TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    source          TEXT    NOT NULL,
    cause           TEXT,
    depth           INTEGER NOT NULL,
    traceparent     TEXT,
    created_at_ms   INTEGER NOT NULL,
    payload         TEXT,
    state           TEXT    NOT NULL,
    error           TEXT,
    partition       INTEGER,
    position        INTEGER,
    next_at_ms      INTEGER,
    crc             INTEGER
) STRICT;
INSERT INTO moving SELECT * FROM custom_event_emits ORDER BY event_id;
DROP TABLE custom_event_emits;
ALTER TABLE moving RENAME TO custom_event_emits;
CREATE UNIQUE INDEX custom_event_emits_by_key ON custom_event_emits (tenant, idempotency_key);
CREATE INDEX custom_event_emits_by_tenant ON custom_event_emits (tenant, event_id);
CREATE INDEX custom_event_emits_by_name ON custom_event_emits (tenant, name, event_id);
CREATE INDEX custom_event_emits_failed ON custom_event_emits (tenant, event_id)
    WHERE state IN ('failed', 'undelivered');
CREATE INDEX custom_event_emits_due ON custom_event_emits (state, next_at_ms) WHERE next_at_ms IS NOT NULL;
