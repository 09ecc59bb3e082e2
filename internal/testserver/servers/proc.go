package servers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// MissingError says that a server is not installed, and how to install it.
type MissingError struct {
	Command string // "redis-server"
	Package string // Debian's package that has it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed: apt-get install %s", e.Command, e.Package)
}

// Find returns the path of a command: from $PATH, or else from the first that matches one of the
// patterns (of filepath.Glob) for where its Debian package puts it. The error is a *MissingError.
func Find(command, pkg string, patterns ...string) (string, error) {
	if path, err := exec.LookPath(command); err == nil {
		return filepath.Abs(path)
	}
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1], nil // the newest version, as Debian numbers its folders
		}
	}
	return "", &MissingError{command, pkg}
}

// Skipper is a *testing.T or *testing.B, as far as Skip needs one.
type Skipper interface {
	Helper()
	Skip(args ...any)
	Fatal(args ...any)
}

// Skip ends the test where err is not nil: it skips for a *MissingError outside CI, in one line,
// and fails otherwise. CI is where the environment variable CI is not empty.
func Skip(t Skipper, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if missing := (*MissingError)(nil); errors.As(err, &missing) && os.Getenv("CI") == "" {
		t.Skip(missing.Error())
	}
	t.Fatal(err)
}

// FreePort returns a TCP port of the loopback interface on which nobody listens. It is below those
// that Linux gives to outgoing connections, so that none of them takes it while its server is down.
func FreePort() (int, error) {
	for range 1000 {
		port := 12000 + rand.IntN(20000)
		l, err := net.Listen("tcp", Address(port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("found no free port in 1000 attempts between 12000 and 31999")
}

// Address returns the loopback address of a port, "127.0.0.1:12000".
func Address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Command is what to run. The zero value of all but Path is fine.
type Command struct {
	Path string
	Args []string
	Dir  string   // where it runs, and keeps its output in a file named as the command
	Env  []string // added to the environment of the test
	// Unprivileged runs it as the user postgres or nobody where the test runs as root, and makes
	// that user the owner of Dir. Elsewhere it does nothing.
	Unprivileged bool
}

// Process is a running server.
type Process struct {
	cmd    *exec.Cmd
	output string // file
	done   chan struct{}
	err    error // of Wait, from when done is closed
}

// Start starts the process and does not wait for it to be ready; see [Process.Await].
func (c Command) Start() (*Process, error) {
	cmd, output, err := c.prepare()
	if err != nil {
		return nil, err
	}
	defer output.Close() // the process has its own descriptor of it
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p := &Process{cmd: cmd, output: output.Name(), done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Run starts the process and waits for its end. The error has the end of what it wrote.
func (c Command) Run(limit time.Duration) error {
	p, err := c.Start()
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		p.Kill()
		return fmt.Errorf("%s did not end within %v: %s", c.Path, limit, p.Output())
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w: %s", c.Path, p.err, p.Output())
	}
	return nil
}

func (c Command) prepare() (*exec.Cmd, *os.File, error) {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir = c.Dir
	cmd.Env = append(os.Environ(), c.Env...)
	attr, err := sysProcAttr(c.Unprivileged, c.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	cmd.SysProcAttr = attr
	output, err := os.OpenFile(filepath.Join(c.Dir, filepath.Base(c.Path)+".out"),
		os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	cmd.Stdout, cmd.Stderr = output, output
	return cmd, output, nil
}

// Await returns when ready returns nil, which it is asked again and again. The error says why that
// did not come to be within the limit, or that the process has ended, with the end of its output.
func (p *Process) Await(limit time.Duration, ready func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v: %s", p.cmd.Path, p.cmd.ProcessState, p.Output())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %v: %w: %s",
				p.cmd.Path, limit, err, p.Output())
		}
	}
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process at once (SIGKILL), and returns when it is gone. It may be called again.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// Signal sends a signal, such as os.Interrupt or syscall.SIGTERM.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the process to end by the signal, and kills it after the limit.
func (p *Process) Stop(s os.Signal, limit time.Duration) {
	if p.Signal(s) == nil {
		select {
		case <-p.done:
		case <-time.After(limit):
		}
	}
	p.Kill()
}

// Freeze stops the process where it is (SIGSTOP): its connections stay open and nothing answers.
func (p *Process) Freeze() error { return freeze(p.cmd.Process) }

// Thaw lets a frozen process go on (SIGCONT).
func (p *Process) Thaw() error { return thaw(p.cmd.Process) }

// Output returns the end of what the process wrote, 2 KiB at most.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.output)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2<<10):])
}
