-- KEYS[1] the key; ARGV: fingerprint, token, event id (16 bytes each), lease in ms, time to live in ms.
-- Kept: R fingerprint token event-id inherited lease-end, or C fingerprint event-id partition:offset:topic.
local kept = redis.call('GET', KEYS[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local event, inherited = ARGV[3], '0'
if kept then
    if string.sub(kept, 2, 17) ~= ARGV[1] then return 'X' end
    if string.sub(kept, 1, 1) == 'C' then return kept end
    event, inherited = string.sub(kept, 34, 49), string.sub(kept, 50, 50)
    if string.sub(kept, 18, 33) ~= ARGV[2] then
        if tonumber(string.sub(kept, 51)) > now then return 'W' end
        inherited = '1'
    end
end
local lease = string.format('%.0f', now + ARGV[4])
redis.call('SET', KEYS[1], 'R' .. ARGV[1] .. ARGV[2] .. event .. inherited .. lease, 'PX', ARGV[5])
return 'H' .. inherited .. event
