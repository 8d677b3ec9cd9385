#!lua flags=allow-oom
-- Keeps a host in the list of hosts. Returns whether it was absent, and the hosts that are alive, or -1
-- and the version of a host with which it cannot share the bus.
--
-- KEYS: the hosts by the time of their end, and their versions.
-- ARGV: the host, the time in milliseconds until it counts as dead, and its version.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, host in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
    redis.call('ZREM', KEYS[1], host)
    redis.call('HDEL', KEYS[2], host)
end
for _, version in ipairs(redis.call('HVALS', KEYS[2])) do
    if math.abs(version - ARGV[3]) > 1 then
        return {-1, version}
    end
end
local is_new = redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return {is_new, unpack(redis.call('ZRANGE', KEYS[1], 0, -1))}
