-- A CRC-32 of each row's fields, as in SQLite: the same statements write and prove it.
ALTER TABLE manifests ADD COLUMN crc BIGINT;
ALTER TABLE api_keys ADD COLUMN crc BIGINT;
ALTER TABLE outbox ADD COLUMN crc BIGINT;
