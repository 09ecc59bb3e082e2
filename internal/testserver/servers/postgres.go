package servers

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Postgres is a PostgreSQL server, with a superuser "postgres" who needs no password. Its port and
// directory outlive the process: what Kill ended, Start starts again, with what it has on disk.
type Postgres struct {
	Addr string
	*Process
	dir  string
	args []string
}

// Where Debian's package has what is not in $PATH.
const postgresBin = "/usr/lib/postgresql/*/bin/"

// NewPostgres makes a database cluster in dir, which must exist, starts its server, and returns
// when it answers. It does not wait for the disk unless settings, which are those of
// postgresql.conf ("fsync=on"), say so. The error is a *MissingError where there is no PostgreSQL.
func NewPostgres(dir string, settings ...string) (*Postgres, error) {
	p, err := newPostgres(dir, settings)
	if err != nil {
		return nil, err
	}
	err = p.tool("initdb", time.Minute,
		"--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C",
		"--wal-segsize=1", "-D", "data")
	if err != nil {
		return nil, fmt.Errorf("new postgres: %w", err)
	}
	return p, p.Start()
}

func newPostgres(dir string, settings []string) (*Postgres, error) {
	port, err := FreePort()
	if err != nil {
		return nil, fmt.Errorf("new postgres: %w", err)
	}
	p := &Postgres{Addr: Address(port), dir: dir}
	if err := reachable(dir); err != nil {
		return nil, fmt.Errorf("new postgres: %w", err)
	}
	for _, s := range append([]string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(port), "unix_socket_directories=",
		"fsync=off", "max_connections=200", "shared_buffers=32MB", "max_wal_senders=4",
		"wal_keep_size=64MB",
	}, settings...) {
		p.args = append(p.args, "-c", s)
	}
	return p, nil
}

// reachable lets everybody pass through dir, and through those between it and the system's
// temporary directory, which are root's alone: PostgreSQL refuses to run as root, and has to get to
// its own.
func reachable(dir string) error {
	temp := filepath.Clean(os.TempDir())
	inside, err := filepath.Rel(temp, dir)
	if os.Geteuid() != 0 || err != nil || !filepath.IsLocal(inside) {
		return nil
	}
	for ; dir != temp; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
	}
	return nil
}

// tool runs one of PostgreSQL's programs in the directory.
func (p *Postgres) tool(name string, limit time.Duration, args ...string) error {
	path, err := Find(name, "postgresql", postgresBin+name)
	if err != nil {
		return err
	}
	return Command{Path: path, Args: args, Dir: p.dir, Unprivileged: true}.Run(limit)
}

// Start starts the process again after Kill, Crash or Shutdown.
func (p *Postgres) Start() error {
	deadline := time.Now().Add(startLimit)
	for {
		err := p.start()
		// Where the server was killed, its processes need a moment to see that, and until then it
		// says that it is still in use.
		inUse := err != nil && strings.Contains(err.Error(), "is still in use")
		if !inUse || time.Now().After(deadline) {
			return err
		}
	}
}

func (p *Postgres) start() error {
	path, err := Find("postgres", "postgresql", postgresBin+"postgres")
	if err != nil {
		return err
	}
	args := append([]string{"-D", "data"}, p.args...)
	process, err := Command{Path: path, Args: args, Dir: p.dir, Unprivileged: true}.Start()
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	err = process.Await(startLimit, func() error {
		_, err := p.Do("SELECT 1")
		return err
	})
	if err != nil {
		process.Kill()
		return fmt.Errorf("postgres at %s: %w", p.Addr, err)
	}
	p.Process = process
	return nil
}

// Crash ends the server and every process of it at once, without a checkpoint: what it has not
// written is lost, as in a crash of the machine but for what the kernel holds.
func (p *Postgres) Crash() { p.Stop(syscall.SIGQUIT, startLimit) }

// Shutdown ends the server in good order, connections or not.
func (p *Postgres) Shutdown() { p.Stop(syscall.SIGINT, startLimit) }

// Close ends the server, if there is one.
func (p *Postgres) Close() {
	if p != nil && p.Process != nil {
		p.Crash()
	}
}

// Replica makes a standby in dir, which streams from p at addr: p's own address, or that of a proxy
// before it.
func (p *Postgres) Replica(dir, addr string, settings ...string) (*Postgres, error) {
	r, err := newPostgres(dir, settings)
	if err != nil {
		return nil, err
	}
	err = r.tool("pg_basebackup", time.Minute,
		"-d", PostgresURL(addr, "postgres", "replication"), "-D", "data",
		"--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--wal-method=stream")
	if err != nil {
		return nil, fmt.Errorf("new standby: %w", err)
	}
	return r, r.Start()
}

// CatchUp returns when the standby has all that the primary has written.
func (p *Postgres) CatchUp(primary *Postgres) error {
	written, err := primary.Do("SELECT pg_current_wal_lsn()")
	if err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	return p.Await(startLimit, func() error {
		done, err := p.Do("SELECT pg_last_wal_replay_lsn() >= '" + written + "'")
		if err == nil && done != "t" {
			err = errors.New("it lags")
		}
		return err
	})
}

// Snapshot shuts the server down in good order, copies its files, and starts it again.
func (p *Postgres) Snapshot() error {
	p.Shutdown()
	if err := p.tool("cp", time.Minute, "-a", "data", "snapshot"); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return p.Start()
}

// Restore ends the server, and starts it with the files of the last Snapshot.
func (p *Postgres) Restore() error {
	p.Close()
	if err := os.RemoveAll(filepath.Join(p.dir, "data")); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	err := os.Rename(filepath.Join(p.dir, "snapshot"), filepath.Join(p.dir, "data"))
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return p.Start()
}

// Promote makes a standby the primary of its own history, and returns when it takes writes.
func (p *Postgres) Promote() error {
	if _, err := p.Do("SELECT pg_promote(false)"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return p.Await(startLimit, func() error {
		standby, err := p.Do("SELECT pg_is_in_recovery()")
		if err == nil && standby != "f" {
			err = errors.New("it is still a standby")
		}
		return err
	})
}

// URL returns how a client connects: to the server itself, or through a proxy at addr.
func (p *Postgres) URL(database string) string { return PostgresURL(p.Addr, "postgres", database) }

// PostgresURL returns how a user connects to a server, or a proxy, at addr.
func PostgresURL(addr, user, database string) string {
	return "postgres://" + user + "@" + addr + "/" + database + "?sslmode=disable"
}

// Do sends SQL on a connection of its own, as the superuser to the database "postgres", and returns
// the first column of the last row.
func (p *Postgres) Do(sql string) (string, error) {
	conn, err := net.DialTimeout("tcp", p.Addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	// https://www.postgresql.org/docs/current/protocol-message-formats.html
	const version3 = 3 << 16
	startup := binary.BigEndian.AppendUint32(nil, version3)
	startup = append(startup, "user\x00postgres\x00database\x00postgres\x00\x00"...)
	in := bufio.NewReader(conn)
	if err := send(conn, nil, startup); err != nil {
		return "", err
	}
	if _, err := untilReady(in); err != nil {
		return "", err
	}
	if err := send(conn, []byte("Q"), append([]byte(sql), 0)); err != nil {
		return "", err
	}
	return untilReady(in)
}

func send(w io.Writer, kind, body []byte) error {
	message := binary.BigEndian.AppendUint32(kind, uint32(4+len(body)))
	_, err := w.Write(append(message, body...))
	return err
}

// untilReady reads until the server is ready for the next query.
func untilReady(in *bufio.Reader) (value string, failed error) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return "", errors.Join(failed, err)
		}
		body := make([]byte, max(0, int(binary.BigEndian.Uint32(head[1:]))-4))
		if _, err := io.ReadFull(in, body); err != nil {
			return "", errors.Join(failed, err)
		}
		switch head[0] {
		case 'Z':
			return value, failed
		case 'E':
			failed = errors.New(strings.ReplaceAll(strings.Trim(string(body), "\x00"), "\x00", " "))
		case 'D':
			const count, size = 2, 4 // of the columns, and of the first one
			value = ""
			if n := int32(binary.BigEndian.Uint32(body[count:])); n > 0 {
				value = string(body[count+size : count+size+int(n)])
			}
		}
	}
}
