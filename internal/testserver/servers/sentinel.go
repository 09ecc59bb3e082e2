package servers

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// SentinelMaster is the name under which a sentinel of NewSentinel knows its primary.
const SentinelMaster = "primary"

// NewSentinel starts a Redis sentinel in dir that watches primary by itself, and puts one of its
// replicas in its place when it has not answered for 300 ms.
func NewSentinel(dir string, primary *Redis) (*Redis, error) {
	path, err := Find("redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, fmt.Errorf("new sentinel: %w", err)
	}
	host, primaryPort, err := net.SplitHostPort(primary.Addr)
	if err != nil {
		return nil, fmt.Errorf("new sentinel: %w", err)
	}
	conf := filepath.Join(dir, "sentinel.conf") // which it writes to
	text := fmt.Sprintf("sentinel monitor %[1]s %s %s 1\n"+
		"sentinel down-after-milliseconds %[1]s 300\n"+
		"sentinel failover-timeout %[1]s 3000\n", SentinelMaster, host, primaryPort)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("new sentinel: %w", err)
	}
	args := []string{
		conf, "--sentinel", "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
	}
	r := &Redis{Addr: Address(port), command: Command{Path: path, Args: args, Dir: dir}}
	return r, r.Start()
}
