-- KEYS: the ticket. ARGV: the sealed grant, and how long to keep it in milliseconds.
if redis.call('EXISTS', KEYS[1]) == 1 then
	return 'known'
end
local born = mark()
redis.call('HSET', KEYS[1], 'mark', born, 'grant', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'put'
