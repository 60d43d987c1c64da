-- Which event an in-process handler published because of which. Kept as long as attempts.
CREATE TABLE event_causes (
    cause         TEXT    NOT NULL,
    event_id      TEXT    NOT NULL,
    tenant        TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL,
    crc           INTEGER,
    PRIMARY KEY (cause, event_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX event_causes_by_time ON event_causes (created_at_ms);

-- The chat extension (source C): what was posted to the channels of a workspace. The id of a message is that of the
-- event it came with, so that one which comes twice is posted once.
CREATE TABLE chat_messages (
    workspace_id  TEXT    NOT NULL,
    channel       TEXT    NOT NULL,
    id            TEXT    NOT NULL,
    message       TEXT    NOT NULL,
    sender        TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL,
    crc           INTEGER,
    PRIMARY KEY (workspace_id, channel, id)
) STRICT;

CREATE INDEX chat_messages_in_order ON chat_messages (workspace_id, channel, created_at_ms, id);
