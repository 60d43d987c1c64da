-- Of too many sessions of one person those that end first are forgotten at each login.
CREATE INDEX sessions_by_subject ON sessions (subject, expires_at_ms);
