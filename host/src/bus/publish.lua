-- Publishes an item, unless one with its id was published before. Follows epoch.lua.
--
-- KEYS: the position of the channel, its stream, and optionally the item's id.
-- ARGV: a new epoch, the item, its tag, the number of items that the stream keeps, the lifetimes of the
-- stream, of the position and of the id in milliseconds, the command that publishes, and the pub/sub
-- channel.
if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 1 then
    -- A write, for which WAIT waits.
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
    return
end
local offset = redis.call('HINCRBY', KEYS[1], 'offset', 1)
local previous = redis.call('HGET', KEYS[1], 'tag') or ''
redis.call('HSET', KEYS[1], 'tag', ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], offset .. '-0',
    'item', ARGV[2], 'tag', ARGV[3], 'previous', previous)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
if KEYS[3] then
    redis.call('SET', KEYS[3], offset, 'PX', ARGV[7])
end
redis.call(ARGV[8], ARGV[9], table.concat({epoch, offset, ARGV[3], previous, ARGV[2]}, ' '))
