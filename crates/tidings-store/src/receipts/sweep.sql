-- $1 how many at most. A row that somebody has locked is being claimed anew.
DELETE FROM receipts
WHERE (key, tenant, principal) IN (
    SELECT key, tenant, principal
    FROM receipts
    WHERE expires_at_ms <= (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint
    ORDER BY expires_at_ms
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
