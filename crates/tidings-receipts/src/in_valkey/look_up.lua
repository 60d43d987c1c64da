-- KEYS: one key. ARGV: a fingerprint (16 bytes). Answers as claim.lua would, of which it describes what is kept, and
-- changes nothing: F where the key is free.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local kept = redis.call('GET', KEYS[1])
if not kept then
    return {'F'}
elseif string.sub(kept, 2, 17) ~= ARGV[1] then
    return {'X'}
elseif string.sub(kept, 1, 1) == 'C' then
    return {kept}
elseif (tonumber(string.sub(kept, 51)) or 0) > now then
    return {'W'}
end
return {'F'}
