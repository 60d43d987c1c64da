-- One number that moves with every change that replicas keep in memory, in the change's own transaction, so that a
-- replica sees either both or neither. The row also makes changes follow each other: whoever changes something waits
-- here for the change before it, so that the outbox's positions are in the order of the commits.
CREATE TABLE changes (
    version BIGINT NOT NULL
);
INSERT INTO changes (version) VALUES (0);

CREATE FUNCTION changed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    UPDATE changes SET version = version + 1;
    RETURN NULL;
END
$$;

CREATE TRIGGER manifests_changed AFTER INSERT OR UPDATE OR DELETE ON manifests
    FOR EACH STATEMENT EXECUTE FUNCTION changed();
CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION changed();

-- Whose turn it is to do what one replica at a time does.
CREATE TABLE turns (
    name       TEXT   NOT NULL PRIMARY KEY,
    holder     UUID   NOT NULL,
    ends_at_ms BIGINT NOT NULL
);
