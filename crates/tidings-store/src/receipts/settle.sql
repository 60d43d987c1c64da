-- $1 tenants, $2 principals, $3 keys, $4 fingerprints, $5 event ids, $6 tokens, $7 topics, $8 partitions, $9 offsets,
-- $10 time to live in ms, $11 the slot to count in.
WITH settled AS (
    SELECT *
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::bigint[],
        $9::bigint[]) AS given (tenant, principal, key, fingerprint, event_id, token, topic, partition, log_offset)
), clock AS (
    SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS now_ms
), written AS (
    INSERT INTO receipts AS kept (key, tenant, principal, fingerprint, event_id, token, inherited, lease_ends_at_ms,
        expires_at_ms, topic, partition, log_offset)
    SELECT key, tenant, principal, fingerprint, event_id, token, FALSE, 0, now_ms + $10::bigint, topic, partition,
        log_offset
    FROM settled, clock
    ORDER BY key COLLATE "C", tenant COLLATE "C", principal COLLATE "C"
    ON CONFLICT (key, tenant, principal) DO UPDATE SET
        fingerprint = EXCLUDED.fingerprint,
        event_id = EXCLUDED.event_id,
        token = EXCLUDED.token,
        expires_at_ms = CASE WHEN kept.expires_at_ms <= EXCLUDED.expires_at_ms - $10
            THEN EXCLUDED.expires_at_ms ELSE kept.expires_at_ms END,
        topic = EXCLUDED.topic, partition = EXCLUDED.partition, log_offset = EXCLUDED.log_offset
    WHERE kept.expires_at_ms <= EXCLUDED.expires_at_ms - $10
        OR (kept.topic IS NULL AND kept.token = EXCLUDED.token)
    RETURNING tenant
)
INSERT INTO receipt_counts AS kept (tenant, slot, completed)
SELECT tenant, $11::smallint, COUNT(*) FROM written GROUP BY tenant ORDER BY tenant COLLATE "C"
ON CONFLICT (tenant, slot) DO UPDATE SET completed = kept.completed + EXCLUDED.completed
