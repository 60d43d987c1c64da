-- What replicas keep in memory has a version for each kind, that of its last change, so that a change of one kind has nobody
-- read the others again. The tables come before changes, in the order in which whoever writes locks them.
CREATE OR REPLACE FUNCTION changed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE changes SET version = version + 1, %I = version + 1', TG_ARGV[0]);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION numbered() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('UPDATE changes SET version = version + 1, %I = version + 1 RETURNING version', TG_ARGV[0])
        INTO NEW.change;
    RETURN NEW;
END
$$;

DROP TRIGGER manifests_changed ON manifests;
CREATE TRIGGER manifests_changed AFTER INSERT OR UPDATE OR DELETE ON manifests
    FOR EACH STATEMENT EXECUTE FUNCTION changed('manifests');

DROP TRIGGER api_keys_changed ON api_keys;
CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION changed('api_keys');

DROP TRIGGER catalogs_changed ON catalogs;
CREATE TRIGGER catalogs_changed AFTER INSERT OR UPDATE OR DELETE ON catalogs
    FOR EACH STATEMENT EXECUTE FUNCTION changed('catalogs');

DROP TRIGGER subscriptions_changed ON subscriptions;
CREATE TRIGGER subscriptions_changed AFTER INSERT OR UPDATE OR DELETE ON subscriptions
    FOR EACH STATEMENT EXECUTE FUNCTION changed('subscriptions');

DROP TRIGGER subscriptions_numbered ON subscriptions;
CREATE TRIGGER subscriptions_numbered BEFORE INSERT OR UPDATE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION numbered('subscriptions');

DROP TRIGGER tenants_changed ON tenants;
-- Other columns are written to lock a tenant alone.
CREATE TRIGGER tenants_changed AFTER INSERT OR DELETE OR UPDATE OF slug, plan, namespaces, updated_at_ms ON tenants
    FOR EACH STATEMENT EXECUTE FUNCTION changed('workspaces');

DROP TRIGGER workspaces_changed ON workspaces;
CREATE TRIGGER workspaces_changed AFTER INSERT OR UPDATE OR DELETE ON workspaces
    FOR EACH STATEMENT EXECUTE FUNCTION changed('workspaces');

DROP TRIGGER workspace_members_changed ON workspace_members;
CREATE TRIGGER workspace_members_changed AFTER INSERT OR UPDATE OR DELETE ON workspace_members
    FOR EACH STATEMENT EXECUTE FUNCTION changed('workspaces');

DROP TRIGGER custom_event_tenant_numbered ON custom_event_tenant;
CREATE TRIGGER custom_event_tenant_numbered BEFORE INSERT OR UPDATE ON custom_event_tenant
    FOR EACH ROW EXECUTE FUNCTION numbered('custom_events');

ALTER TABLE changes
    ADD COLUMN api_keys BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN manifests BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN catalogs BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN workspaces BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN subscriptions BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN custom_events BIGINT NOT NULL DEFAULT 0;
UPDATE changes SET
    api_keys = version, manifests = version, catalogs = version,
    workspaces = version, subscriptions = version, custom_events = version;
