-- The mark is the life of the process that runs this: its run_id, new at every start, and its
-- replication id, new at every promotion. 40 hexadecimal digits each.
local function mark()
	local info = redis.pcall('INFO', 'server', 'replication')
	if type(info) == 'table' then -- Redis 6 takes one section only; what is forbidden fails here
		info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
	end
	local _, run = string.find(info, '\nrun_id:', 1, true)
	local _, replid = string.find(info, '\nmaster_replid:', 1, true)
	if not run or not replid then
		error('INFO shows no run_id and master_replid')
	end
	return string.sub(info, run + 1, run + 40) .. string.sub(info, replid + 1, replid + 40)
end
