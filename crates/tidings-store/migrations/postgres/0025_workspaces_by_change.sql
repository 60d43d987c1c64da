-- Replicas read which tenants and which workspaces have changed since they last looked, not all of them. A workspace changes
-- with its members. What is removed has no row to tell of it: then they read all of it again.
--
-- The numbers stand beside the rows: a replica of the version before goes on reading those as it has prepared to. All rows of
-- one statement have one number, taken when all of them are written: whoever holds changes waits for no row.
CREATE TABLE workspace_changes (
    kind   TEXT COLLATE "C" NOT NULL,
    id     TEXT COLLATE "C" NOT NULL,
    change BIGINT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX workspace_changes_by_change ON workspace_changes (change, kind, id);

CREATE FUNCTION workspaces_noted(of_kind TEXT, ids TEXT[]) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    number BIGINT;
BEGIN
    IF cardinality(ids) > 0 THEN
        UPDATE changes SET version = version + 1, workspaces = workspaces + 1 RETURNING version INTO number;
        INSERT INTO workspace_changes (kind, id, change) SELECT of_kind, unnest(ids), number
            ON CONFLICT (kind, id) DO UPDATE SET change = EXCLUDED.change;
    END IF;
END
$$;

CREATE FUNCTION workspaces_removed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    UPDATE changes SET version = version + 1, workspaces = workspaces + 1, workspaces_removed = workspaces_removed + 1;
    RETURN NULL;
END
$$;

CREATE FUNCTION workspaces_added() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    PERFORM workspaces_noted(TG_ARGV[0], ARRAY(SELECT id FROM after_it));
    RETURN NULL;
END
$$;

-- A row that is written as it was, to lock it, is no change.
CREATE FUNCTION workspaces_changed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    PERFORM workspaces_noted(TG_ARGV[0], ARRAY(SELECT id FROM (TABLE after_it EXCEPT TABLE before_it) AS changed));
    RETURN NULL;
END
$$;

CREATE FUNCTION members_changed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM workspaces_noted('workspace', ARRAY(SELECT DISTINCT workspace FROM after_it));
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM workspaces_noted('workspace', ARRAY(SELECT DISTINCT workspace FROM before_it));
    ELSE
        PERFORM workspaces_noted('workspace', ARRAY(SELECT workspace FROM before_it UNION SELECT workspace FROM after_it));
    END IF;
    RETURN NULL;
END
$$;

DROP TRIGGER tenants_changed ON tenants;
CREATE TRIGGER tenants_added AFTER INSERT ON tenants
    REFERENCING NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION workspaces_added('tenant');
CREATE TRIGGER tenants_changed AFTER UPDATE ON tenants
    REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION workspaces_changed('tenant');
CREATE TRIGGER tenants_removed AFTER DELETE OR TRUNCATE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION workspaces_removed();

DROP TRIGGER workspaces_changed ON workspaces;
CREATE TRIGGER workspaces_added AFTER INSERT ON workspaces
    REFERENCING NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION workspaces_added('workspace');
CREATE TRIGGER workspaces_changed AFTER UPDATE ON workspaces
    REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION workspaces_changed('workspace');
CREATE TRIGGER workspaces_removed AFTER DELETE OR TRUNCATE ON workspaces
    FOR EACH STATEMENT EXECUTE FUNCTION workspaces_removed();

DROP TRIGGER workspace_members_changed ON workspace_members;
CREATE TRIGGER workspace_members_added AFTER INSERT ON workspace_members
    REFERENCING NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION members_changed();
CREATE TRIGGER workspace_members_changed AFTER UPDATE ON workspace_members
    REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it FOR EACH STATEMENT EXECUTE FUNCTION members_changed();
CREATE TRIGGER workspace_members_removed AFTER DELETE ON workspace_members
    REFERENCING OLD TABLE AS before_it FOR EACH STATEMENT EXECUTE FUNCTION members_changed();
CREATE TRIGGER workspace_members_emptied AFTER TRUNCATE ON workspace_members
    FOR EACH STATEMENT EXECUTE FUNCTION workspaces_removed();

-- Last, as whoever writes locks it last.
ALTER TABLE changes ADD COLUMN workspaces_removed BIGINT NOT NULL DEFAULT 0;
