-- KEYS[1] the key; ARGV: token, and whether to keep the event id ('1').
local kept = redis.call('GET', KEYS[1])
if not kept or string.sub(kept, 1, 1) ~= 'R' or string.sub(kept, 18, 33) ~= ARGV[1] then return 0 end
if ARGV[2] == '1' then
    redis.call('SET', KEYS[1], string.sub(kept, 1, 50) .. '0', 'KEEPTTL')
else
    redis.call('DEL', KEYS[1])
end
return 1
