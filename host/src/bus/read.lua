-- Reads the items of a channel. Returns its epoch, the offset of the last item, and the items with
-- their offsets, oldest first. Follows epoch.lua.
--
-- KEYS: the position of the channel, and its stream.
-- ARGV: a new epoch, the lifetime of the position in milliseconds, the first offset, and the number of
-- the newest items to read if the offset is 0.
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local offset = redis.call('HGET', KEYS[1], 'offset') or '0'
local entries
if ARGV[3] == '0' then
    local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', ARGV[4])
    entries = {}
    for index = #newest, 1, -1 do
        entries[#entries + 1] = newest[index]
    end
else
    entries = redis.call('XRANGE', KEYS[2], ARGV[3] .. '-0', '+')
end
local items = {}
for _, entry in ipairs(entries) do
    items[#items + 1] = string.match(entry[1], '^%d+')
    items[#items + 1] = entry[2][2]
end
return {epoch, offset, items}
