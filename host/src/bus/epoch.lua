-- The beginning of scripts for a channel: sets `epoch`. A new epoch begins if the position was lost, and
-- with it the offsets of the items in the stream.
--
-- KEYS: the position of the channel, and its stream. ARGV: a new epoch.
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
    epoch = ARGV[1]
    redis.call('HSET', KEYS[1], 'epoch', epoch)
    redis.call('DEL', KEYS[2])
end
