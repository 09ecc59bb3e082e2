-- KEYS: the ticket. ARGV: the sealed grant, and how long to keep it in milliseconds.
local born = mark()
if not redis.call('SET', KEYS[1], born .. ARGV[1], 'PX', ARGV[2], 'NX') then
	return 'known'
end
return born
