#!lua flags=allow-oom
-- Begins a run of a timer. Returns its number, or 0 if the host does not hold the lease.
--
-- KEYS: the lease, and the number of runs so far. ARGV: the host.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
return redis.call('INCR', KEYS[2])
