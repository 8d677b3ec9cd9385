#!lua flags=allow-oom
-- Publishes a probe. A replica refuses to run this, since the flags allow writes.
--
-- KEYS: the pub/sub channel.
redis.call('PUBLISH', KEYS[1], '')
