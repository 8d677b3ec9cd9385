#!lua flags=allow-oom
-- Takes or renews the lease of a host. Returns 1 if it holds it, and 0 if another host does.
--
-- KEYS: the lease. ARGV: the host, and the time of the lease in milliseconds.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
