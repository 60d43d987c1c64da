-- Source D: what tenants have registered. A version's schema never changes; its description and status do.
CREATE TABLE custom_event (
    tenant          TEXT COLLATE "C" NOT NULL,
    namespace       TEXT COLLATE "C" NOT NULL,
    name            TEXT COLLATE "C" NOT NULL,
    major           BIGINT NOT NULL,
    minor           BIGINT NOT NULL,
    patch           BIGINT NOT NULL,
    status          TEXT   NOT NULL,
    description     TEXT,
    payload_schema  TEXT   NOT NULL,
    payload_example TEXT,
    schema_hash     TEXT   NOT NULL,
    schema_flavour  TEXT   NOT NULL,
    semver_bump     TEXT   NOT NULL,
    created_at_ms   BIGINT NOT NULL,
    updated_at_ms   BIGINT NOT NULL,
    crc             BIGINT,
    PRIMARY KEY (tenant, namespace, name, major, minor, patch)
);

-- One row for each tenant that has ever changed a registration. Its revision counts the changes: who writes says which
-- one the decision was made on, so that of two replicas that decide on the same rows one decides again.
CREATE TABLE custom_event_tenant (
    tenant   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,
    change   BIGINT NOT NULL,
    crc      BIGINT
);

CREATE INDEX custom_event_tenant_by_change ON custom_event_tenant (change);

CREATE TRIGGER custom_event_tenant_numbered BEFORE INSERT OR UPDATE ON custom_event_tenant
    FOR EACH ROW EXECUTE FUNCTION numbered();
