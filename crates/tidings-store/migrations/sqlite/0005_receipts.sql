-- Idempotency keys of one process on a log that keeps none. Without a topic: reserved by the publish that has the
-- token, until its lease ends. With one: completed, and where to.
CREATE TABLE receipts (
    key              TEXT    NOT NULL,
    tenant           TEXT    NOT NULL,
    principal        TEXT    NOT NULL,
    fingerprint      BLOB    NOT NULL,
    event_id         BLOB    NOT NULL,
    token            BLOB    NOT NULL,
    -- Whether an earlier publish may have appended the event already.
    inherited        INTEGER NOT NULL,
    lease_ends_at_ms INTEGER NOT NULL,
    expires_at_ms    INTEGER NOT NULL,
    topic            TEXT,
    partition        INTEGER,
    log_offset       INTEGER,
    crc              INTEGER NOT NULL,
    PRIMARY KEY (key, tenant, principal)
) STRICT;

CREATE INDEX receipts_by_expiry ON receipts (expires_at_ms);

-- How many keys each tenant has completed.
CREATE TABLE receipt_counts (
    tenant    TEXT    NOT NULL PRIMARY KEY,
    completed INTEGER NOT NULL,
    crc       INTEGER NOT NULL
) STRICT;
