-- Events that go with a change, until they are on the bus: written in the change's own transaction.
-- The position keeps the order of the changes, which times within a millisecond do not.
CREATE TABLE outbox (
    position      BIGINT NOT NULL PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    id            TEXT   NOT NULL UNIQUE,
    service       TEXT   NOT NULL,
    tenant        TEXT   NOT NULL,
    event_type    TEXT   NOT NULL,
    data          TEXT   NOT NULL,
    created_at_ms BIGINT NOT NULL
);
