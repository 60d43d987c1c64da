-- KEYS: keys of one tenant, none twice. ARGV: for each its token, and whether to keep the event id ('1').
local released = 0
for index, kept in ipairs(redis.call('MGET', unpack(KEYS))) do
    local given = ARGV[index]
    if kept and string.sub(kept, 1, 1) == 'R' and string.sub(kept, 18, 33) == string.sub(given, 1, 16) then
        if string.sub(given, 17) == '1' then
            redis.call('SET', KEYS[index], string.sub(kept, 1, 50) .. '0', 'KEEPTTL')
        else
            redis.call('DEL', KEYS[index])
        end
        released = released + 1
    end
end
return released
