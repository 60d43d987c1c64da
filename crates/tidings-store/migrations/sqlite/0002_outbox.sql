-- Events that go with a change, until they are on the bus: written in the change's own transaction.
-- The position keeps the order of the changes, which times within a millisecond do not.
CREATE TABLE outbox (
    position      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id            TEXT    NOT NULL UNIQUE,
    service       TEXT    NOT NULL,
    tenant        TEXT    NOT NULL,
    event_type    TEXT    NOT NULL,
    data          TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT;
