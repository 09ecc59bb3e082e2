package servers

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// How long a server may take to answer on a machine that is busy with other things.
const startLimit = 30 * time.Second

// Redis is a redis-server. Its port and directory outlive the process: what Kill ended, Start
// starts again, with what it has on disk.
type Redis struct {
	Addr string
	*Process
	command Command
}

// NewRedis starts a redis-server in dir, which must exist, and returns when it answers. It writes
// nothing to disk unless args, which are those of redis-server ("--save", "1 1"), say so. The error
// is a *MissingError where there is no redis-server.
func NewRedis(dir string, args ...string) (*Redis, error) {
	path, err := Find("redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	port, err := FreePort()
	if err != nil {
		return nil, fmt.Errorf("new redis: %w", err)
	}
	base := []string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
		"--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0",
	}
	command := Command{Path: path, Args: append(base, args...), Dir: dir}
	r := &Redis{Addr: Address(port), command: command}
	return r, r.Start()
}

// Start starts the process again after Kill.
func (r *Redis) Start() error {
	p, err := r.command.Start()
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	err = p.Await(startLimit, func() error {
		_, err := r.Do("PING")
		return err
	})
	if err != nil {
		p.Kill()
		return fmt.Errorf("redis at %s: %w", r.Addr, err)
	}
	r.Process = p
	return nil
}

// Close ends the process, if there is one.
func (r *Redis) Close() {
	if r != nil && r.Process != nil {
		r.Kill()
	}
}

// Do sends one command on a connection of its own. The reply is a string, an int64, nil, or a
// []any of them.
func (r *Redis) Do(args ...string) (any, error) {
	conn, err := net.DialTimeout("tcp", r.Addr, time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	request := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, arg := range args {
		request = fmt.Appendf(request, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	reply, err := readReply(bufio.NewReader(conn))
	if err != nil {
		return nil, fmt.Errorf("redis at %s: %s: %w", r.Addr, args[0], err)
	}
	return reply, nil
}

// readReply reads RESP 2.
func readReply(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("malformed reply %q", line)
	}
	rest := line[1 : len(line)-2]
	switch line[0] {
	case '+':
		return rest, nil
	case '-':
		return nil, errors.New(rest)
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("malformed reply %q", line)
	}
	switch {
	case line[0] == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case line[0] == '$':
		b := make([]byte, n+2)
		_, err := io.ReadFull(r, b)
		return string(b[:n]), err
	case line[0] == '*':
		items := make([]any, n)
		for i := range items {
			if items[i], err = readReply(r); err != nil {
				return nil, err
			}
		}
		return items, nil
	}
	return nil, fmt.Errorf("malformed reply %q", line)
}

// Follow makes r a replica of what listens at addr, be it a proxy.
func (r *Redis) Follow(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	_, err = r.Do("REPLICAOF", host, port)
	return err
}

// CatchUp returns when the replica r has all that primary has now.
func (r *Redis) CatchUp(primary *Redis) error {
	want, err := primary.replicationOffset()
	if err != nil {
		return err
	}
	return r.Await(startLimit, func() error {
		role, err := r.Do("ROLE")
		if err != nil {
			return err
		}
		state, ok := role.([]any) // slave, host, port, state, offset
		if !ok || len(state) != 5 || state[3] != "connected" {
			return fmt.Errorf("the role is %v, want a replica that is connected", role)
		}
		if got, _ := state[4].(int64); got < want {
			return fmt.Errorf("the replica is at offset %d, want %d", got, want)
		}
		return nil
	})
}

func (r *Redis) replicationOffset() (int64, error) {
	role, err := r.Do("ROLE")
	if err != nil {
		return 0, err
	}
	state, ok := role.([]any) // master, offset, replicas
	if !ok || len(state) != 3 || state[0] != "master" {
		return 0, fmt.Errorf("redis at %s: the role is %v, want master", r.Addr, role)
	}
	offset, _ := state[1].(int64)
	return offset, nil
}

// Promote makes a replica a primary.
func (r *Redis) Promote() error {
	_, err := r.Do("REPLICAOF", "NO", "ONE")
	return err
}
