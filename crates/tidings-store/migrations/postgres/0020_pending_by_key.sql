-- What is behind others of a key is counted, and the next of a key is found, among the rows of that key alone. A key may be
-- longer than an index takes, so that its beginning stands for it.
CREATE INDEX pending_of_lane ON pending_deliveries (subscription, substr(lane, 1, 100), sequence) WHERE lane IS NOT NULL;
