-- Reads the items of a channel. Returns its epoch, the offset and the tag of the last item, and the
-- items, oldest first. Each item is an offset, a tag, the tag of the item before, and its content.
-- Follows epoch.lua.
--
-- KEYS: the position of the channel, and its stream.
-- ARGV: a new epoch, the lifetime of the position in milliseconds, the first offset, the number of the
-- newest items to read if the offset is 0, an epoch that has lost items, the command that publishes,
-- and the pub/sub channel.
if epoch == ARGV[5] then
    -- Its offsets were given out twice. The message notifies the other hosts.
    epoch = ARGV[1]
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[1], 'epoch', epoch)
    redis.call(ARGV[6], ARGV[7], epoch .. ' 0   ')
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local offset = redis.call('HGET', KEYS[1], 'offset') or '0'
local tag = redis.call('HGET', KEYS[1], 'tag') or ''
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
    local fields = entry[2]
    items[#items + 1] = string.match(entry[1], '^%d+')
    items[#items + 1] = fields[4] or ''
    items[#items + 1] = fields[6] or ''
    items[#items + 1] = fields[2] or ''
end
return {epoch, offset, tag, items}
