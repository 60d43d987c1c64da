-- Which event an in-process handler published because of which. Kept as long as attempts.
CREATE TABLE event_causes (
    cause         TEXT COLLATE "C" NOT NULL,
    event_id      TEXT COLLATE "C" NOT NULL,
    tenant        TEXT COLLATE "C" NOT NULL,
    created_at_ms BIGINT NOT NULL,
    crc           BIGINT,
    PRIMARY KEY (cause, event_id)
);

CREATE INDEX event_causes_by_time ON event_causes (created_at_ms);

-- The chat extension (source C): what was posted to the channels of a workspace. The id of a message is that of the
-- event it came with, so that one which comes twice is posted once.
CREATE TABLE chat_messages (
    workspace_id  TEXT COLLATE "C" NOT NULL,
    channel       TEXT COLLATE "C" NOT NULL,
    id            TEXT COLLATE "C" NOT NULL,
    message       TEXT    NOT NULL,
    sender        TEXT    NOT NULL,
    created_at_ms BIGINT NOT NULL,
    crc           BIGINT,
    PRIMARY KEY (workspace_id, channel, id)
);

CREATE INDEX chat_messages_in_order ON chat_messages (workspace_id, channel, created_at_ms, id);
