#!lua flags=allow-oom
-- Publishes a probe. A replica refuses to run this, since the flags allow writes.
--
-- KEYS: the pub/sub channel. ARGV: the command that publishes.
redis.call(ARGV[1], KEYS[1], '')
