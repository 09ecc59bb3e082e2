-- KEYS: the log. ARGV: how long to keep entries in milliseconds, and the entry's fields.
-- Of what is too old the newest stays: it is the place of those who have read everything.
local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
local before = math.max(0, tonumber(string.match(id, '^%d+')) - tonumber(ARGV[1]))
local old = redis.call('XREVRANGE', KEYS[1], string.format('%.0f', before), '-', 'COUNT', 1)
redis.call('XTRIM', KEYS[1], 'MINID', old[1] and old[1][1] or '0')
return id
