package redisstore_test

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
	"github.com/ticketgate/ticketgate/tickets/storetest"
)

// The README's line: nothing less will do, and it is enough for the whole contract.
const granted = "~ticketgate:* +eval +evalsha +info +get +set +pttl +del " +
	"+xadd +xrange +xrevrange +xtrim +xread"

func TestACL_GrantedIsEnoughAndNeeded(t *testing.T) {
	r := newRedis(t)
	login := func(rules ...string) *redis.Client {
		_, err := r.Do(
			append([]string{"ACL", "SETUSER", "app", "reset", "on", ">secret"}, rules...)...)
		require.NoError(t, err)
		return newClient(
			t,
			r.Addr,
			func(o *redis.Options) { o.Username, o.Password = "app", "secret" },
		)
	}
	words := strings.Fields(granted)
	for i, missing := range words {
		t.Run("without "+missing, func(t *testing.T) {
			rules := append(append([]string{}, words[:i]...), words[i+1:]...)
			_, err := redisstore.New(ctx, login(rules...), patient)
			require.ErrorContains(t, err, "grant the user "+granted)
		})
	}
	t.Run("granted", func(t *testing.T) {
		client := login(words...)
		storetest.RunShared(t, func() (tickets.Store, error) {
			return redisstore.New(ctx, client, patient)
		})
	})
}

// A script that may not run INFO has written nothing when it fails.
func TestACL_InfoRevokedLater(t *testing.T) {
	r := newRedis(t)
	store := newStore(t, newClient(t, r.Addr), nil)
	key := put(t, store)
	_, err := r.Do("ACL", "SETUSER", "default", "-info")
	require.NoError(t, err)
	requireFailed(t, take(store, key))
	_, err = r.Do("ACL", "SETUSER", "default", "+info")
	require.NoError(t, err)
	require.NoError(t, take(store, key))
}
