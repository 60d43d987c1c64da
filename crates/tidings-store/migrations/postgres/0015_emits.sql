-- Emits of custom events (source D): each is written before its event is appended, so that one which the bus would not
-- take is appended later. The payload goes as soon as it is on the bus.
CREATE TABLE custom_event_emits (
    event_id        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant          TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C" NOT NULL,
    fingerprint     TEXT    NOT NULL,
    event_type      TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    source          TEXT    NOT NULL,
    cause           TEXT,
    depth           BIGINT NOT NULL,
    traceparent     TEXT,
    created_at_ms   BIGINT NOT NULL,
    payload         TEXT,
    state           TEXT    NOT NULL,
    error           TEXT,
    partition       BIGINT,
    position        BIGINT,
    next_at_ms      BIGINT,
    crc             BIGINT
);

CREATE UNIQUE INDEX custom_event_emits_by_key ON custom_event_emits (tenant, idempotency_key);
CREATE INDEX custom_event_emits_by_tenant ON custom_event_emits (tenant, event_id);
CREATE INDEX custom_event_emits_failed ON custom_event_emits (tenant, event_id)
    WHERE state IN ('failed', 'undelivered');
CREATE INDEX custom_event_emits_due ON custom_event_emits (next_at_ms) WHERE next_at_ms IS NOT NULL;

-- How many emits of a tenant were accepted in a calendar month (UTC).
CREATE TABLE custom_event_usage (
    tenant TEXT COLLATE "C" NOT NULL,
    month  TEXT COLLATE "C" NOT NULL,
    emits  BIGINT NOT NULL,
    crc    BIGINT,
    PRIMARY KEY (tenant, month)
);
