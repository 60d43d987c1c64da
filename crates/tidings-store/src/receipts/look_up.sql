-- $1 tenant, $2 principal, $3 key, $4 fingerprint. The columns that claim.sql answers with; no row where the key is free.
WITH clock AS (
    SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS now_ms
)
SELECT CASE WHEN topic IS NULL AND fingerprint = $4 AND lease_ends_at_ms <= now_ms THEN event_id END AS held_event_id,
    TRUE AS inherited, fingerprint, event_id, topic, partition, log_offset
FROM receipts, clock
WHERE tenant = $1 AND principal = $2 AND key = $3 AND expires_at_ms > now_ms
