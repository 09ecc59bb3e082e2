-- KEYS: the ticket. ARGV: for how many milliseconds before it is gone it is expired.
-- The grant is deleted and the rest stays, to tell a used ticket from an unknown one. HDEL is a
-- write that a server that is out of memory takes.
local ticket = redis.call('HMGET', KEYS[1], 'mark', 'grant')
if not ticket[1] then
	return 'unknown'
end
if not ticket[2] then
	return 'used'
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
	return 'expired'
end
if ticket[1] ~= mark() then
	return 'foreign'
end
redis.call('HDEL', KEYS[1], 'grant')
return {ticket[2]}
