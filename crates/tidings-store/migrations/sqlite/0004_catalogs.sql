-- Catalogues of topics as they were given. They belong to the installation, not to a tenant.
CREATE TABLE catalogs (
    name          TEXT    NOT NULL PRIMARY KEY,
    document      TEXT    NOT NULL,
    enforce       INTEGER NOT NULL,
    version       INTEGER NOT NULL,
    changed_at_ms INTEGER NOT NULL,
    crc           INTEGER
) STRICT;
