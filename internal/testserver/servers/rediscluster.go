package servers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const slots = 16384

// RedisCluster is a Redis cluster of three primaries, without replicas.
type RedisCluster struct {
	Nodes [3]*Redis
	ids   [3]string
}

// NewRedisCluster starts a cluster in folders of dir, and returns when all of it answers. Each node
// has a third of the slots.
func NewRedisCluster(dir string) (c *RedisCluster, err error) {
	c = &RedisCluster{}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	ports := make([]string, len(c.Nodes))
	for i := range c.Nodes {
		bus, err := FreePort()
		if err != nil {
			return nil, err
		}
		ports[i] = strconv.Itoa(bus)
		sub := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			return nil, err
		}
		c.Nodes[i], err = NewRedis(sub, "--cluster-enabled", "yes", "--cluster-port", ports[i])
		if err != nil {
			return c, err
		}
	}
	for i, n := range c.Nodes {
		id, err := n.Do("CLUSTER", "MYID")
		if err != nil {
			return c, err
		}
		c.ids[i], _ = id.(string)
		from, to := i*slots/len(c.Nodes), (i+1)*slots/len(c.Nodes)-1
		_, err = n.Do("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(from), strconv.Itoa(to))
		if err != nil {
			return c, err
		}
		host, port, _ := net.SplitHostPort(c.Nodes[0].Addr)
		if _, err := n.Do("CLUSTER", "MEET", host, port, ports[0]); err != nil {
			return c, err
		}
	}
	for _, n := range c.Nodes {
		if err := n.Await(startLimit, n.clusterReady); err != nil {
			return c, err
		}
	}
	return c, nil
}

func (r *Redis) clusterReady() error {
	info, err := r.Do("CLUSTER", "INFO")
	if err != nil {
		return err
	}
	text, _ := info.(string)
	wants := []string{"cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:3"}
	for _, want := range wants {
		if !strings.Contains(text, want) {
			return fmt.Errorf("want %s in %q", want, text)
		}
	}
	return nil
}

// Addrs returns where the nodes listen.
func (c *RedisCluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// Close ends every node.
func (c *RedisCluster) Close() {
	if c == nil {
		return
	}
	for _, n := range c.Nodes {
		n.Close()
	}
}

// Owner returns the index of the node that has the slot of a key, as that node itself says.
func (c *RedisCluster) Owner(key string) (int, error) {
	for i, n := range c.Nodes {
		if _, err := n.Do("EXISTS", key); err == nil {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no node has the slot of %s", key)
}

// BeginMove begins to move the slot of a key: from sends clients that ask for keys which it has not
// to to. Move does this itself.
func (c *RedisCluster) BeginMove(key string, from, to int) (slot string, err error) {
	reply, err := c.Nodes[0].Do("CLUSTER", "KEYSLOT", key)
	if err != nil {
		return "", err
	}
	n, _ := reply.(int64)
	slot = strconv.FormatInt(n, 10)
	if _, err := c.Nodes[to].Do("CLUSTER", "SETSLOT", slot, "IMPORTING", c.ids[from]); err != nil {
		return "", err
	}
	_, err = c.Nodes[from].Do("CLUSTER", "SETSLOT", slot, "MIGRATING", c.ids[to])
	return slot, err
}

// Move moves the slot of a key, with all that is in it, from one node to another, as redis-cli
// does: a few keys at a time, while clients go on.
func (c *RedisCluster) Move(key string, from, to int) error {
	slot, err := c.BeginMove(key, from, to)
	if err != nil {
		return err
	}
	source, target := c.Nodes[from], c.Nodes[to]
	host, port, _ := net.SplitHostPort(target.Addr)
	for {
		reply, err := source.Do("CLUSTER", "GETKEYSINSLOT", slot, "10")
		if err != nil {
			return err
		}
		keys, _ := reply.([]any)
		if len(keys) == 0 {
			break
		}
		migrate := []string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}
		for _, key := range keys {
			name, _ := key.(string)
			migrate = append(migrate, name)
		}
		if _, err := source.Do(migrate...); err != nil {
			return err
		}
	}
	var errs []error
	for _, i := range []int{to, from, 3 - to - from} {
		_, err := c.Nodes[i].Do("CLUSTER", "SETSLOT", slot, "NODE", c.ids[to])
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
