package redisstore

import (
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// Each script has one key, so that a cluster knows where to run it. It reads the mark before it
// writes, because a script that fails after a write has written. The server sends the effects of a
// script to its replicas, not the script.
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

	putScript    = newScript(markSource + putSource)
	takeScript   = newScript(markSource + takeSource)
	appendScript = newScript(appendSource)
	readScript   = newScript(markSource + readSource)
)

type script struct{ eval, evalSHA []any }

func newScript(source string) *script {
	hash := sha1.Sum([]byte(source)) // Redis's name for it
	return &script{[]any{"eval", source, 1}, []any{"evalsha", hex.EncodeToString(hash[:]), 1}}
}

// run runs the script on key, and never twice: it sends the whole script only after the server has
// answered that it does not know it.
func (s *Store) run(
	ctx context.Context, n *server, sc *script, key string, args ...any,
) (*once, error) {
	cmd, err := s.send(ctx, n, sc.evalSHA, key, args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd, err = s.send(ctx, n, sc.eval, key, args)
	}
	return cmd, err
}

func (s *Store) send(
	ctx context.Context, n *server, words []any, key string, args []any,
) (*once, error) {
	all := make([]any, 0, len(words)+1+len(args))
	cmd := newOnce(ctx, append(append(append(all, words...), key), args...)...)
	if err := n.process(ctx, cmd); err != nil {
		return nil, s.late(ctx, err)
	}
	return cmd, nil
}

// late adds to an error that the store's timeout was the cause.
func (s *Store) late(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer within %v: %w", s.timeout, err)
	}
	return err
}

// eval finds the server for key and runs the script there, within the store's timeout.
func (s *Store) eval(ctx context.Context, sc *script, key string, args ...any) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	n, err := s.route(ctx, key)
	if err != nil {
		return nil, s.late(ctx, err)
	}
	cmd, err := s.run(ctx, n, sc, key, args...)
	if err != nil {
		return nil, err
	}
	return cmd.Val(), nil
}
