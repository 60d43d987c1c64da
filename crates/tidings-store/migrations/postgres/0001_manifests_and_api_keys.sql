-- What each module publishes and subscribes to. Belongs to the installation, not to a tenant.
-- Texts are compared by their bytes (COLLATE "C"), as SQLite does, so that both list in one order.
CREATE TABLE manifests (
    module_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    version       TEXT   NOT NULL,
    document      TEXT   NOT NULL,
    updated_at_ms BIGINT NOT NULL
);

-- API keys: the hash only, never the key. A revoked key keeps its row, so that it can be shown and audited.
CREATE TABLE api_keys (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant        TEXT   NOT NULL,
    name          TEXT   NOT NULL,
    module        TEXT,
    scopes        TEXT   NOT NULL,
    hash          BYTEA  NOT NULL UNIQUE,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT,
    revoked_at_ms BIGINT
);

CREATE INDEX api_keys_of_tenant ON api_keys (tenant, created_at_ms);
