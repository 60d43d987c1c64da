-- Who wants which events, and where to. The document is what the tenant wrote, without its secrets; those are
-- encrypted. A deleted subscription keeps its row, so that what was delivered can still be explained.
CREATE TABLE subscriptions (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant        TEXT COLLATE "C" NOT NULL,
    document      TEXT   NOT NULL,
    secrets       TEXT   NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,
    reason        TEXT,
    revision      BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    -- The number of its last change; replicas read what is newer than what they know.
    change        BIGINT NOT NULL DEFAULT 0,
    crc           BIGINT
);

CREATE INDEX subscriptions_of_tenant ON subscriptions (tenant, id);

-- How far the log has been gone through for everybody who has no place of its own, by share of the tenants.
CREATE TABLE delivery_cursors (
    share       TEXT COLLATE "C" NOT NULL,
    topic       TEXT COLLATE "C" NOT NULL,
    partition   BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    crc         BIGINT,
    PRIMARY KEY (share, topic, partition)
);

-- The last sequence number below the cursors, and the places of a subscription that differ from them. The slot is
-- where its tenant falls: modulo the number of shares it names the tenant's share.
CREATE TABLE delivery_progress (
    subscription TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant       TEXT COLLATE "C" NOT NULL,
    slot         BIGINT NOT NULL,
    sequence     BIGINT NOT NULL,
    places       TEXT   NOT NULL,
    crc          BIGINT
);

-- Deliveries that did not succeed at once, or wait behind one of their key that did not.
CREATE TABLE pending_deliveries (
    subscription TEXT COLLATE "C" NOT NULL,
    sequence     BIGINT NOT NULL,
    tenant       TEXT COLLATE "C" NOT NULL,
    slot         BIGINT NOT NULL,
    event_id     TEXT COLLATE "C" NOT NULL,
    lane         TEXT,
    attempts     BIGINT NOT NULL,
    state        TEXT COLLATE "C" NOT NULL,
    next_at_ms   BIGINT NOT NULL,
    detail       TEXT   NOT NULL,
    crc          BIGINT,
    PRIMARY KEY (subscription, sequence)
);

CREATE INDEX pending_by_time ON pending_deliveries (state, next_at_ms);
CREATE INDEX pending_of_event ON pending_deliveries (event_id);

-- What each hand-over came to. Appended in batches, kept for delivery.attempts_retention.
CREATE TABLE delivery_attempts (
    subscription  TEXT COLLATE "C" NOT NULL,
    sequence      BIGINT NOT NULL,
    number        BIGINT NOT NULL,
    tenant        TEXT COLLATE "C" NOT NULL,
    event_id      TEXT COLLATE "C" NOT NULL,
    started_at_ms BIGINT NOT NULL,
    outcome       TEXT   NOT NULL,
    detail        TEXT   NOT NULL,
    crc           BIGINT,
    PRIMARY KEY (subscription, sequence, number)
);

CREATE INDEX attempts_of_event ON delivery_attempts (event_id);
CREATE INDEX attempts_by_time ON delivery_attempts (started_at_ms);

-- Deliveries that were given up (source C). The event is kept here, so that it outlives the log's retention.
CREATE TABLE dead_letter_event (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant        TEXT COLLATE "C" NOT NULL,
    subscription  TEXT COLLATE "C" NOT NULL,
    sequence      BIGINT NOT NULL,
    event_id      TEXT COLLATE "C" NOT NULL,
    event_type    TEXT   NOT NULL,
    event         TEXT   NOT NULL,
    attempts      BIGINT NOT NULL,
    last_error    TEXT   NOT NULL,
    created_at_ms BIGINT NOT NULL,
    state         TEXT COLLATE "C" NOT NULL,
    crc           BIGINT
);

CREATE INDEX dead_letters_of_tenant ON dead_letter_event (tenant, id);
CREATE INDEX dead_letters_of_delivery ON dead_letter_event (subscription, sequence);

CREATE TRIGGER subscriptions_changed AFTER INSERT OR UPDATE OR DELETE ON subscriptions
    FOR EACH STATEMENT EXECUTE FUNCTION changed();

-- A row that changes takes the number that its change will have. The update of the one row of changes waits
-- for changes before it, so that numbers are in the order of the commits.
CREATE FUNCTION numbered() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    UPDATE changes SET version = version + 1 RETURNING version INTO NEW.change;
    RETURN NEW;
END
$$;

CREATE TRIGGER subscriptions_numbered BEFORE INSERT OR UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION numbered();
