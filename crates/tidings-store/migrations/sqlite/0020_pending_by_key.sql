-- What is behind others of a key is counted among the rows of that key alone.
CREATE INDEX pending_of_lane ON pending_deliveries (subscription, lane, state) WHERE lane IS NOT NULL;
