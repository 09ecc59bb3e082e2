package redisstore

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Each is one script with one key, so that Redis runs it whole or not at all, and a cluster knows
// where. What asks for the mark does so before it writes: a script that fails after a write has
// written. The server sends replicas what a script did, not the script.
var (
	//go:embed lua/mark.lua
	markSource string
	//go:embed lua/put.lua
	putSource string
	//go:embed lua/take.lua
	takeSource string
	//go:embed lua/append.lua
	appendSource string
	//go:embed lua/read.lua
	readSource string

	markScript   = newScript(markSource + "return mark()")
	putScript    = newScript(markSource + putSource)
	takeScript   = newScript(markSource + takeSource)
	appendScript = newScript(appendSource)
	readScript   = newScript(markSource + readSource)
)

type script struct{ source, hash string }

func newScript(source string) *script {
	hash := sha1.Sum([]byte(source)) // Redis's name for it
	return &script{source, hex.EncodeToString(hash[:])}
}

// eval runs the script on key within the store's timeout, and never twice: only a server that has
// said that it does not know the script is sent it again, whole.
func (s *Store) eval(ctx context.Context, sc *script, key string, args ...any) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	reply, err := s.run(ctx, "evalsha", sc.hash, key, args)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		reply, err = s.run(ctx, "eval", sc.source, key, args)
	}
	return reply, err
}

func (s *Store) run(ctx context.Context, command, script, key string, args []any) (any, error) {
	all := append(make([]any, 0, 4+len(args)), command, script, 1, key)
	cmd := redis.NewCmd(ctx, append(all, args...)...)
	if err := s.process(ctx, key, once{cmd}); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("no answer within %v: %w", s.timeout, err)
		}
		return nil, err
	}
	return cmd.Val(), nil
}
