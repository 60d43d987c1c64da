-- Who the installation serves. A tenant is made by an operator, or on the Free plan by its first credential.
CREATE TABLE tenants (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    slug          TEXT   NOT NULL,
    plan          TEXT   NOT NULL,
    namespaces    TEXT   NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    crc           BIGINT
);

-- Source C. An id is one workspace's in the whole installation.
CREATE TABLE workspaces (
    id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant        TEXT COLLATE "C" NOT NULL,
    created_at_ms BIGINT NOT NULL,
    crc           BIGINT
);

CREATE INDEX workspaces_of_tenant ON workspaces (tenant, id);

CREATE TABLE workspace_members (
    workspace     TEXT COLLATE "C" NOT NULL,
    user_id       TEXT COLLATE "C" NOT NULL,
    role          TEXT   NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    crc           BIGINT,
    PRIMARY KEY (workspace, user_id)
);

-- Browser sessions: the hash of the cookie only. A revoked one is gone.
CREATE TABLE sessions (
    hash          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    tenant        TEXT,
    subject       TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    crc           BIGINT
);

CREATE INDEX sessions_by_end ON sessions (expires_at_ms);

-- Source C: what a workspace has installed, and which events it is to get. `subscription` is the row of the table
-- of that name by which an external service is delivered to.
CREATE TABLE workspace_extensions (
    workspace_id     TEXT COLLATE "C" NOT NULL,
    extension_id     TEXT COLLATE "C" NOT NULL,
    kind             TEXT   NOT NULL,
    service_base_url TEXT,
    installed        BIGINT NOT NULL,
    enabled          BIGINT NOT NULL,
    updated_at_ms    BIGINT NOT NULL,
    crc              BIGINT,
    PRIMARY KEY (workspace_id, extension_id)
);

CREATE TABLE ext_event_subscription (
    workspace_id  TEXT COLLATE "C" NOT NULL,
    extension_id  TEXT COLLATE "C" NOT NULL,
    event_key     TEXT COLLATE "C" NOT NULL,
    subscription  TEXT COLLATE "C",
    created_at_ms BIGINT NOT NULL,
    crc           BIGINT,
    PRIMARY KEY (workspace_id, extension_id, event_key)
);

CREATE INDEX ext_event_subscription_of_key ON ext_event_subscription (workspace_id, event_key);

CREATE TRIGGER tenants_changed AFTER INSERT OR UPDATE OR DELETE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION changed();

CREATE TRIGGER workspaces_changed AFTER INSERT OR UPDATE OR DELETE ON workspaces
    FOR EACH STATEMENT EXECUTE FUNCTION changed();

CREATE TRIGGER workspace_members_changed AFTER INSERT OR UPDATE OR DELETE ON workspace_members
    FOR EACH STATEMENT EXECUTE FUNCTION changed();
