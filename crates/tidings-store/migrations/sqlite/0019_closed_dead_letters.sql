-- Closed dead letters are forgotten after a while: found without reading the events that the rows hold.
CREATE INDEX dead_letters_closed ON dead_letter_event (created_at_ms) WHERE state = 'closed';
