-- KEYS: the key, the tenant's counter; ARGV: token, the completed value, time to live in ms for a key that is gone.
local kept = redis.call('GET', KEYS[1])
if not kept then
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
elseif string.sub(kept, 1, 1) == 'R' and string.sub(kept, 18, 33) == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
else
    return 0
end
redis.call('INCR', KEYS[2])
return 1
