-- Catalogues of topics as they were given. They belong to the installation, not to a tenant.
CREATE TABLE catalogs (
    name          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    document      TEXT   NOT NULL,
    enforce       BIGINT NOT NULL,
    version       BIGINT NOT NULL,
    changed_at_ms BIGINT NOT NULL,
    crc           BIGINT
);

CREATE TRIGGER catalogs_changed AFTER INSERT OR UPDATE OR DELETE ON catalogs
    FOR EACH STATEMENT EXECUTE FUNCTION changed();
