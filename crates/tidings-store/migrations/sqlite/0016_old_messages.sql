-- Old chat messages are forgotten by their time.
CREATE INDEX chat_messages_by_time ON chat_messages (created_at_ms);
