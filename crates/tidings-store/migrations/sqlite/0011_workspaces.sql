-- Who the installation serves. A tenant is made by an operator, or on the Free plan by its first credential.
CREATE TABLE tenants (
    id            TEXT NOT NULL PRIMARY KEY,
    slug          TEXT   NOT NULL,
    plan          TEXT   NOT NULL,
    namespaces    TEXT   NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    crc           INTEGER
) STRICT;

-- Source C. An id is one workspace's in the whole installation.
CREATE TABLE workspaces (
    id            TEXT NOT NULL PRIMARY KEY,
    tenant        TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    crc           INTEGER
) STRICT;

CREATE INDEX workspaces_of_tenant ON workspaces (tenant, id);

CREATE TABLE workspace_members (
    workspace     TEXT NOT NULL,
    user_id       TEXT NOT NULL,
    role          TEXT   NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    crc           INTEGER,
    PRIMARY KEY (workspace, user_id)
) STRICT;

-- Browser sessions: the hash of the cookie only. A revoked one is gone.
CREATE TABLE sessions (
    hash          TEXT NOT NULL PRIMARY KEY,
    tenant        TEXT,
    subject       TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    crc           INTEGER
) STRICT;

CREATE INDEX sessions_by_end ON sessions (expires_at_ms);

-- Source C: what a workspace has installed, and which events it is to get. `subscription` is the row of the table
-- of that name by which an external service is delivered to.
CREATE TABLE workspace_extensions (
    workspace_id     TEXT NOT NULL,
    extension_id     TEXT NOT NULL,
    kind             TEXT   NOT NULL,
    service_base_url TEXT,
    installed        INTEGER NOT NULL,
    enabled          INTEGER NOT NULL,
    updated_at_ms    INTEGER NOT NULL,
    crc              INTEGER,
    PRIMARY KEY (workspace_id, extension_id)
) STRICT;

CREATE TABLE ext_event_subscription (
    workspace_id  TEXT NOT NULL,
    extension_id  TEXT NOT NULL,
    event_key     TEXT NOT NULL,
    subscription  TEXT,
    created_at_ms INTEGER NOT NULL,
    crc           INTEGER,
    PRIMARY KEY (workspace_id, extension_id, event_key)
) STRICT;

CREATE INDEX ext_event_subscription_of_key ON ext_event_subscription (workspace_id, event_key);
