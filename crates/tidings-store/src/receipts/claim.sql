-- $1 tenants, $2 principals, $3 keys, $4 fingerprints, $5 event ids, $6 tokens, $7 lease in ms, $8 time to live in ms.
-- In DO UPDATE the time is written EXCLUDED.expires_at_ms - $8: nothing else of the SELECT can be named there.
WITH wanted AS (
    SELECT *
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[])
        WITH ORDINALITY AS given (tenant, principal, key, fingerprint, event_id, token, position)
), clock AS (
    SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS now_ms
), held AS (
    INSERT INTO receipts AS kept
        (key, tenant, principal, fingerprint, event_id, token, inherited, lease_ends_at_ms, expires_at_ms)
    SELECT key, tenant, principal, fingerprint, event_id, token, FALSE, now_ms + $7::bigint, now_ms + $8::bigint
    FROM wanted, clock
    ORDER BY key COLLATE "C", tenant COLLATE "C", principal COLLATE "C"
    ON CONFLICT (key, tenant, principal) DO UPDATE SET
        fingerprint = EXCLUDED.fingerprint,
        event_id = CASE WHEN kept.expires_at_ms <= EXCLUDED.expires_at_ms - $8
            THEN EXCLUDED.event_id ELSE kept.event_id END,
        inherited = CASE WHEN kept.expires_at_ms <= EXCLUDED.expires_at_ms - $8 THEN FALSE
            ELSE kept.inherited OR kept.token <> EXCLUDED.token END,
        token = EXCLUDED.token,
        lease_ends_at_ms = EXCLUDED.lease_ends_at_ms,
        expires_at_ms = EXCLUDED.expires_at_ms,
        topic = NULL, partition = NULL, log_offset = NULL
    WHERE kept.expires_at_ms <= EXCLUDED.expires_at_ms - $8
        OR (kept.topic IS NULL AND kept.fingerprint = EXCLUDED.fingerprint
            AND (kept.token = EXCLUDED.token OR kept.lease_ends_at_ms <= EXCLUDED.expires_at_ms - $8))
    RETURNING key, tenant, principal, event_id, inherited
)
SELECT held.event_id AS held_event_id, held.inherited,
    before.fingerprint, before.event_id, before.topic, before.partition, before.log_offset
FROM wanted
CROSS JOIN clock
LEFT JOIN held USING (key, tenant, principal)
LEFT JOIN receipts AS before ON held.event_id IS NULL AND before.expires_at_ms > now_ms
    AND before.key = wanted.key AND before.tenant = wanted.tenant AND before.principal = wanted.principal
ORDER BY position
