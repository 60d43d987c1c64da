-- Source D: what tenants have registered. A version's schema never changes; its description and status do.
CREATE TABLE custom_event (
    tenant          TEXT    NOT NULL,
    namespace       TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    major           INTEGER NOT NULL,
    minor           INTEGER NOT NULL,
    patch           INTEGER NOT NULL,
    status          TEXT    NOT NULL,
    description     TEXT,
    payload_schema  TEXT    NOT NULL,
    payload_example TEXT,
    schema_hash     TEXT    NOT NULL,
    schema_flavour  TEXT    NOT NULL,
    semver_bump     TEXT    NOT NULL,
    created_at_ms   INTEGER NOT NULL,
    updated_at_ms   INTEGER NOT NULL,
    crc             INTEGER,
    PRIMARY KEY (tenant, namespace, name, major, minor, patch)
) STRICT;

-- One row for each tenant that has ever changed a registration. Its revision counts the changes: who writes says which
-- one the decision was made on, so that of two replicas that decide on the same rows one decides again.
CREATE TABLE custom_event_tenant (
    tenant   TEXT    NOT NULL PRIMARY KEY,
    revision INTEGER NOT NULL,
    change   INTEGER NOT NULL,
    crc      INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX custom_event_tenant_by_change ON custom_event_tenant (change);
