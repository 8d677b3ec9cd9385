-- Adds a member to a channel, or removes it, and publishes the item if this is the first or the last
-- host with it. Before epoch.lua and publish.lua.
--
-- KEYS: those of publish.lua, and the members of the channel.
-- ARGV: those of publish.lua, of which the item may be empty; then the host and the member, as the name
-- of a field; the value of the field, or an empty one to remove it; its lifetime in milliseconds; and the
-- fields that the other hosts would have.
local changed
if ARGV[11] == '' then
    changed = redis.call('HDEL', KEYS[4], ARGV[10])
else
    changed = redis.call('HSET', KEYS[4], ARGV[10], ARGV[11])
    redis.call('PEXPIRE', KEYS[4], ARGV[12])
end
if changed == 0 or ARGV[2] == '' then
    return
end
for index = 13, #ARGV do
    if redis.call('HEXISTS', KEYS[4], ARGV[index]) == 1 then
        return
    end
end
