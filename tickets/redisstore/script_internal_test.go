package redisstore

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/internal/testserver/servers"
)

// Redis 6 takes one section of INFO at a time: the mark is the same.
func TestMark_Redis6(t *testing.T) {
	r, err := servers.NewRedis(t.TempDir())
	t.Cleanup(r.Close)
	servers.Skip(t, err)
	client := redis.NewClient(&redis.Options{Addr: r.Addr})
	t.Cleanup(func() { client.Close() })
	const redis6 = `
local redis = {call = redis.call, pcall = function(command, ...)
	if select('#', ...) > 1 then
		return {err = 'ERR syntax error'}
	end
	return redis.pcall(command, ...)
end}
`
	ctx := context.Background()
	mark, err := client.Eval(ctx, markSource+"return mark()", nil).Text()
	require.NoError(t, err)
	require.Regexp(t, "^[0-9a-f]{80}$", mark)
	require.Equal(t, client.InfoMap(ctx, "server").Item("Server", "run_id"), mark[:40])
	require.Equal(
		t,
		client.InfoMap(ctx, "replication").Item("Replication", "master_replid"),
		mark[40:],
	)
	old, err := client.Eval(ctx, redis6+markSource+"return mark()", nil).Text()
	require.NoError(t, err)
	require.Equal(t, mark, old)
}
