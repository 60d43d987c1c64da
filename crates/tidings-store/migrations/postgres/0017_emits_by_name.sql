-- A tenant's emits of one event, the newest first; and those that are due by their state, so that many which wait for
-- deliveries keep nobody waiting who is not on the bus yet.
CREATE INDEX custom_event_emits_by_name ON custom_event_emits (tenant, name, event_id);
DROP INDEX custom_event_emits_due;
CREATE INDEX custom_event_emits_due ON custom_event_emits (state, next_at_ms) WHERE next_at_ms IS NOT NULL;
