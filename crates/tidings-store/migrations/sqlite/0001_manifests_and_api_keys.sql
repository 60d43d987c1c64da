-- What each module publishes and subscribes to. Belongs to the installation, not to a tenant.
CREATE TABLE manifests (
    module_id     TEXT    NOT NULL PRIMARY KEY,
    version       TEXT    NOT NULL,
    document      TEXT    NOT NULL,
    updated_at_ms INTEGER NOT NULL
) STRICT;

-- API keys: the hash only, never the key. A revoked key keeps its row, so that it can be shown and audited.
CREATE TABLE api_keys (
    id            TEXT    NOT NULL PRIMARY KEY,
    tenant        TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    module        TEXT,
    scopes        TEXT    NOT NULL,
    hash          BLOB    NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER,
    revoked_at_ms INTEGER
) STRICT;

CREATE INDEX api_keys_of_tenant ON api_keys (tenant, created_at_ms);
