-- KEYS: keys of one tenant, none twice. ARGV: lease and time to live in ms, then for each key its fingerprint, token
-- and event id (16 bytes each).
-- Kept: R fingerprint token event-id inherited lease-end, or C fingerprint event-id partition:offset:topic.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lease = string.format('%.0f', now + ARGV[1])
local answers = {}
for index, kept in ipairs(redis.call('MGET', unpack(KEYS))) do
    local asked = ARGV[index + 2]
    local fingerprint, token = string.sub(asked, 1, 16), string.sub(asked, 17, 32)
    local event, inherited, answer = string.sub(asked, 33, 48), '0', nil
    if kept then
        if string.sub(kept, 2, 17) ~= fingerprint then
            answer = 'X'
        elseif string.sub(kept, 1, 1) == 'C' then
            answer = kept
        else
            event, inherited = string.sub(kept, 34, 49), string.sub(kept, 50, 50)
            if string.sub(kept, 18, 33) ~= token then
                if (tonumber(string.sub(kept, 51)) or 0) > now then answer = 'W' else inherited = '1' end
            end
        end
    end
    if not answer then
        redis.call('SET', KEYS[index], 'R' .. fingerprint .. token .. event .. inherited .. lease, 'PX', ARGV[2])
        answer = 'H' .. inherited .. event
    end
    answers[index] = answer
end
return answers
