-- KEYS: the ticket. ARGV: for how many milliseconds before it is gone it is expired.
local ticket = redis.call('GET', KEYS[1])
if not ticket then
	return 'unknown'
end
if ticket == 'used' then
	return 'used'
end
local left = redis.call('PTTL', KEYS[1])
if left < tonumber(ARGV[1]) then
	return 'expired'
end
if string.sub(ticket, 1, 80) ~= mark() then
	return 'foreign'
end
-- A server that is out of memory takes a SET only after a write that it takes.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], 'used', 'PX', left)
return {string.sub(ticket, 81)}
