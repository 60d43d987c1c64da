-- KEYS: the counter of a tenant, then keys of it, none twice. ARGV: time to live in ms for a key that is gone, then for
-- each key its token and the completed value.
local counted = 0
for index, kept in ipairs(redis.call('MGET', unpack(KEYS, 2))) do
    local key, given = KEYS[index + 1], ARGV[index + 1]
    local value = string.sub(given, 17)
    if not kept then
        redis.call('SET', key, value, 'PX', ARGV[1])
        counted = counted + 1
    elseif string.sub(kept, 1, 1) == 'R' and string.sub(kept, 18, 33) == string.sub(given, 1, 16) then
        redis.call('SET', key, value, 'KEEPTTL')
        counted = counted + 1
    end
end
if counted > 0 then redis.call('INCRBY', KEYS[1], counted) end
return counted
