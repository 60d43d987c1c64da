-- $1 tenants, $2 principals, $3 keys, $4 tokens, $5 whether to keep the event id.
WITH released AS (
    SELECT *
    FROM UNNEST($1::text[], $2::text[], $3::text[], $4::uuid[], $5::boolean[])
        AS given (tenant, principal, key, token, keep)
), held AS MATERIALIZED (
    SELECT kept.key, kept.tenant, kept.principal, released.keep
    FROM receipts AS kept
    JOIN released USING (key, tenant, principal)
    WHERE kept.token = released.token AND kept.topic IS NULL
    ORDER BY kept.key, kept.tenant, kept.principal
    FOR UPDATE OF kept
), ended AS (
    UPDATE receipts AS kept SET lease_ends_at_ms = 0 FROM held
    WHERE held.keep AND kept.key = held.key AND kept.tenant = held.tenant AND kept.principal = held.principal
)
DELETE FROM receipts AS kept USING held
WHERE NOT held.keep AND kept.key = held.key AND kept.tenant = held.tenant AND kept.principal = held.principal
