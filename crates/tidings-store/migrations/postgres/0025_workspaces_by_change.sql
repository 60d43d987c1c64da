-- Replicas read which tenants and which workspaces have changed since they last looked, not all of them. A workspace changes
-- with its members. What is removed has no row to tell of it: then they read all of it again.
ALTER TABLE changes ADD COLUMN workspaces_removed BIGINT NOT NULL DEFAULT 0;

ALTER TABLE tenants ADD COLUMN change BIGINT NOT NULL DEFAULT 0;
CREATE INDEX tenants_by_change ON tenants (change);
ALTER TABLE workspaces ADD COLUMN change BIGINT NOT NULL DEFAULT 0;
CREATE INDEX workspaces_by_change ON workspaces (change);

CREATE FUNCTION workspaces_removed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    UPDATE changes SET version = version + 1, workspaces = workspaces + 1, workspaces_removed = workspaces_removed + 1;
    RETURN NULL;
END
$$;

DROP TRIGGER tenants_changed ON tenants;
-- Other columns are written to lock a tenant alone.
CREATE TRIGGER tenants_numbered BEFORE INSERT OR UPDATE OF slug, plan, namespaces, updated_at_ms ON tenants
    FOR EACH ROW EXECUTE FUNCTION numbered('workspaces');
CREATE TRIGGER tenants_removed AFTER DELETE OR TRUNCATE ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION workspaces_removed();

DROP TRIGGER workspaces_changed ON workspaces;
CREATE TRIGGER workspaces_numbered BEFORE INSERT OR UPDATE ON workspaces
    FOR EACH ROW EXECUTE FUNCTION numbered('workspaces');
CREATE TRIGGER workspaces_removed AFTER DELETE OR TRUNCATE ON workspaces
    FOR EACH STATEMENT EXECUTE FUNCTION workspaces_removed();

CREATE FUNCTION members_changed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE workspaces SET change = change WHERE id = OLD.workspace;
    END IF;
    IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.workspace <> OLD.workspace THEN
        UPDATE workspaces SET change = change WHERE id = NEW.workspace;
    END IF;
    RETURN NULL;
END
$$;

DROP TRIGGER workspace_members_changed ON workspace_members;
CREATE TRIGGER workspace_members_changed AFTER INSERT OR UPDATE OR DELETE ON workspace_members
    FOR EACH ROW EXECUTE FUNCTION members_changed();
CREATE TRIGGER workspace_members_removed AFTER TRUNCATE ON workspace_members
    FOR EACH STATEMENT EXECUTE FUNCTION workspaces_removed();
