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

// run runs the script on key, and never twice: only a server that has said that it does not know the
// script is sent it again, whole.
func (s *Store) run(ctx context.Context, n *server, sc *script, key string, args ...any) (*once, error) {
	cmd, err := s.send(ctx, n, sc.evalSHA, key, args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd, err = s.send(ctx, n, sc.eval, key, args)
	}
	return cmd, err
}

func (s *Store) send(ctx context.Context, n *server, words []any, key string, args []any) (*once, error) {
	all := make([]any, 0, len(words)+1+len(args))
	cmd := newOnce(ctx, append(append(append(all, words...), key), args...)...)
	if err := n.process(ctx, cmd); err != nil {
		return nil, s.late(ctx, err)
	}
	return cmd, nil
}

// late says of an error what the store's timeout has to do with it.
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
