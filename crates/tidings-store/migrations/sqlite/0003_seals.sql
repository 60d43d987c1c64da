-- A CRC-32 of each row's fields, checked whenever the row is read. SQL cannot compute it: the program seals the rows
-- that are here already, in one transaction with the removal of this mark.
ALTER TABLE manifests ADD COLUMN crc INTEGER;
ALTER TABLE api_keys ADD COLUMN crc INTEGER;
ALTER TABLE outbox ADD COLUMN crc INTEGER;

CREATE TABLE unsealed (
    mark INTEGER NOT NULL PRIMARY KEY
) STRICT;

INSERT INTO unsealed (mark) VALUES (1);
