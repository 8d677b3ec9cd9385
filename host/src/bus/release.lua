-- Releases the lease of a host, if it holds it.
--
-- KEYS: the lease. ARGV: the host.
if redis.call('GET', KEYS[1]) == ARGV[1] then
    redis.call('DEL', KEYS[1])
end
