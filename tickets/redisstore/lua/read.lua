-- KEYS: the log. ARGV: the id to begin at, and how many entries.
return {mark(), redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])}
