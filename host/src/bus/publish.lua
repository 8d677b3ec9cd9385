-- Publishes an item, unless one with its id was published before. Follows epoch.lua.
--
-- KEYS: the position of the channel, its stream, and optionally the item's id.
-- ARGV: a new epoch, the item, the number of items that the stream keeps, the lifetimes of the stream,
-- of the position and of the id in milliseconds, and the pub/sub channel.
if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 1 then
    return
end
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], offset .. '-0', 'item', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
if KEYS[3] then
    redis.call('SET', KEYS[3], offset, 'PX', ARGV[6])
end
redis.call('PUBLISH', ARGV[7], epoch .. ' ' .. offset .. ' ' .. ARGV[2])
