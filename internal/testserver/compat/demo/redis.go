package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

func openRedis(ctx context.Context, url string) (shared, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return shared{}, fmt.Errorf("-redis: %w", err)
	}
	client := redis.NewClient(opts)
	store, err := redisstore.New(ctx, client, nil)
	if err != nil {
		return shared{}, errors.Join(fmt.Errorf("-redis: %w", err), client.Close())
	}
	return shared{store, redisSessions{client}, func() { client.Close() }}, nil
}

// redisSessions are one hash, which is enough for a demo.
type redisSessions struct{ client *redis.Client }

const sessionsKey = "ticketgate-demo:sessions"

func (r redisSessions) Put(ctx context.Context, s middleware.Session) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return r.client.HSet(ctx, sessionsKey, s.ID, b).Err()
}

func (r redisSessions) Get(
	ctx context.Context, id string,
) (s middleware.Session, ok bool, err error) {
	b, err := r.client.HGet(ctx, sessionsKey, id).Bytes()
	if errors.Is(err, redis.Nil) {
		return s, false, nil
	}
	if err != nil {
		return s, false, err
	}
	return s, true, json.Unmarshal(b, &s)
}

func (r redisSessions) Delete(ctx context.Context, id string) (bool, error) {
	n, err := r.client.HDel(ctx, sessionsKey, id).Result()
	return n > 0, err
}

func (r redisSessions) All(ctx context.Context) ([]middleware.Session, error) {
	kept, err := r.client.HVals(ctx, sessionsKey).Result()
	if err != nil {
		return nil, err
	}
	all := make([]middleware.Session, len(kept))
	for i, b := range kept {
		if err := json.Unmarshal([]byte(b), &all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}
