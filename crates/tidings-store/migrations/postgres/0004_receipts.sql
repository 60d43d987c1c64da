-- Idempotency keys. Without a topic: reserved by the publish that has the token, until its lease ends.
-- With one: completed, and where to. Room is left in the pages so that completing a row moves no index.
CREATE TABLE receipts (
    key              TEXT COLLATE "C" NOT NULL,
    tenant           TEXT COLLATE "C" NOT NULL,
    principal        TEXT COLLATE "C" NOT NULL,
    fingerprint      UUID    NOT NULL,
    event_id         UUID    NOT NULL,
    token            UUID    NOT NULL,
    -- Whether an earlier publish may have appended the event already.
    inherited        BOOLEAN NOT NULL,
    lease_ends_at_ms BIGINT  NOT NULL,
    expires_at_ms    BIGINT  NOT NULL,
    topic            TEXT,
    partition        BIGINT,
    log_offset       BIGINT,
    PRIMARY KEY (key, tenant, principal)
) WITH (fillfactor = 80);

CREATE INDEX receipts_by_expiry ON receipts (expires_at_ms);

-- How many keys each tenant has completed: the sum over its rows. Several, so that publishes of one tenant
-- do not wait for each other's commit.
CREATE TABLE receipt_counts (
    tenant    TEXT COLLATE "C" NOT NULL,
    slot      SMALLINT NOT NULL,
    completed BIGINT   NOT NULL,
    PRIMARY KEY (tenant, slot)
) WITH (fillfactor = 50);
