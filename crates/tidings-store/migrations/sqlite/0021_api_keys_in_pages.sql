-- A tenant's API keys are listed in pages, by their ids, which is the order of their making; and those in force are found
-- without reading the ended ones, whose rows stay.
CREATE INDEX api_keys_by_id ON api_keys (tenant, id);
DROP INDEX api_keys_of_tenant;
CREATE INDEX api_keys_in_force ON api_keys (expires_at_ms) WHERE revoked_at_ms IS NULL;
