-- Who wants which events, and where to. The document is what the tenant wrote, without its secrets; those are
-- encrypted. A deleted subscription keeps its row, so that what was delivered can still be explained.
CREATE TABLE subscriptions (
    id            TEXT    NOT NULL PRIMARY KEY,
    tenant        TEXT    NOT NULL,
    document      TEXT    NOT NULL,
    secrets       TEXT    NOT NULL,
    state         TEXT    NOT NULL,
    reason        TEXT,
    revision      INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    -- The number of its last change; replicas read what is newer than what they know.
    change        INTEGER NOT NULL DEFAULT 0,
    crc           INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX subscriptions_of_tenant ON subscriptions (tenant, id);

-- How far the log has been gone through for everybody who has no place of its own, by share of the tenants.
CREATE TABLE delivery_cursors (
    share       TEXT    NOT NULL,
    topic       TEXT    NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    crc         INTEGER,
    PRIMARY KEY (share, topic, partition)
) STRICT;

-- The last sequence number below the cursors, and the places of a subscription that differ from them. The slot is
-- where its tenant falls: modulo the number of shares it names the tenant's share.
CREATE TABLE delivery_progress (
    subscription TEXT    NOT NULL PRIMARY KEY,
    tenant       TEXT    NOT NULL,
    slot         INTEGER NOT NULL,
    sequence     INTEGER NOT NULL,
    places       TEXT    NOT NULL,
    crc          INTEGER
) STRICT;

-- Deliveries that did not succeed at once, or wait behind one of their key that did not.
CREATE TABLE pending_deliveries (
    subscription TEXT    NOT NULL,
    sequence     INTEGER NOT NULL,
    tenant       TEXT    NOT NULL,
    slot         INTEGER NOT NULL,
    event_id     TEXT    NOT NULL,
    lane         TEXT,
    attempts     INTEGER NOT NULL,
    state        TEXT    NOT NULL,
    next_at_ms   INTEGER NOT NULL,
    detail       TEXT    NOT NULL,
    crc          INTEGER,
    PRIMARY KEY (subscription, sequence)
) STRICT, WITHOUT ROWID;

CREATE INDEX pending_by_time ON pending_deliveries (state, next_at_ms);
CREATE INDEX pending_of_event ON pending_deliveries (event_id);

-- What each hand-over came to. Appended in batches, kept for delivery.attempts_retention.
CREATE TABLE delivery_attempts (
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
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_of_event ON delivery_attempts (event_id);
CREATE INDEX attempts_by_time ON delivery_attempts (started_at_ms);

-- Deliveries that were given up (source C). The event is kept here, so that it outlives the log's retention.
CREATE TABLE dead_letter_event (
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
) STRICT, WITHOUT ROWID;

CREATE INDEX dead_letters_of_tenant ON dead_letter_event (tenant, id);
CREATE INDEX dead_letters_of_delivery ON dead_letter_event (subscription, sequence);
