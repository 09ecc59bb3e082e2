package servers

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// Proxy stands between a client and a server on the loopback interface, and does to their
// connections what networks do. Its faults hold for connections that are open and for new ones. It
// is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	change *sync.Cond // of what follows
	target string
	fault  fault
	delay  time.Duration
	lose   int // how many replies are still to be lost
	lost   int // and how many were
	links  map[*link]struct{}
}

type fault int

const (
	passing fault = iota
	stalled
	cut
	swallowing
	closed
)

// link is one connection through the proxy.
type link struct {
	client, server net.Conn // server is nil until it is dialled
	silent         bool     // has lost a reply: the replies after it would make no sense
}

// NewProxy returns a proxy that passes everything to target, a host and port.
func NewProxy(target string) (*Proxy, error) {
	port, err := FreePort()
	if err != nil {
		return nil, fmt.Errorf("new proxy: %w", err)
	}
	listener, err := net.Listen("tcp", Address(port))
	if err != nil {
		return nil, fmt.Errorf("new proxy: %w", err)
	}
	p := &Proxy{listener: listener, target: target, links: make(map[*link]struct{})}
	p.change = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	return p, nil
}

// Addr returns where the proxy listens: what a client connects to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Pass ends every fault. What was stalled arrives now, late.
func (p *Proxy) Pass() {
	p.set(func() { p.fault, p.delay, p.lose = passing, 0, 0 })
}

// Stall makes a black hole, both ways: connections are accepted and stay open, and no byte moves.
func (p *Proxy) Stall() { p.set(func() { p.fault = stalled }) }

// Cut resets every connection, and each new one as it comes.
func (p *Proxy) Cut() {
	p.set(func() {
		p.fault = cut
		p.resetAll()
	})
}

// Reset resets the connections that are open; new ones are as before.
func (p *Proxy) Reset() { p.set(p.resetAll) }

// LoseReplies lets requests through and, of what the server answers, throws the next n pieces away,
// each with its connection: the client sees a reset after the server has done what it was asked.
func (p *Proxy) LoseReplies(n int) { p.set(func() { p.lose = n }) }

// SwallowReplies lets requests through and throws every answer away while the connections stay
// open: the client waits. A connection that has lost an answer this way never gets another one.
func (p *Proxy) SwallowReplies() { p.set(func() { p.fault = swallowing }) }

// Delay holds every answer up for d.
func (p *Proxy) Delay(d time.Duration) { p.set(func() { p.delay = d }) }

// Target sends new connections to another server.
func (p *Proxy) Target(addr string) { p.set(func() { p.target = addr }) }

// Open returns how many connections there are through the proxy. While it stalls, those that the
// client has given up count too: the server does not know yet.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Lost returns how many answers LoseReplies and SwallowReplies have thrown away.
func (p *Proxy) Lost() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// Close resets every connection and returns when nothing of the proxy is left running.
func (p *Proxy) Close() {
	p.set(func() {
		p.fault = closed
		p.listener.Close()
		p.resetAll()
	})
	p.wg.Wait()
}

func (p *Proxy) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fault == closed {
		return
	}
	f()
	p.change.Broadcast()
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		l := &link{client: conn}
		p.mu.Lock()
		if p.fault == cut || p.fault == closed {
			l.close(true)
			p.mu.Unlock()
			continue
		}
		p.links[l] = struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.serve(l) })
	}
}

func (p *Proxy) serve(l *link) {
	defer p.remove(l)
	p.mu.Lock()
	p.awaitMoving(l)
	target := p.target
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		return
	}
	p.mu.Lock()
	l.server = server
	if _, open := p.links[l]; !open {
		server.Close()
	}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(l, l.server, l.client, false) })
	both.Go(func() { p.copy(l, l.client, l.server, true) })
	both.Wait()
}

// copy moves bytes until one end has closed, and then closes the other.
func (p *Proxy) copy(l *link, to, from net.Conn, replies bool) {
	defer p.remove(l)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && p.admit(l, replies) {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			p.mu.Lock()
			p.awaitMoving(l) // in a black hole an end does not arrive either
			p.mu.Unlock()
			return
		}
	}
}

// admit waits as the fault demands, and reports whether the piece that was read is passed on.
func (p *Proxy) admit(l *link, reply bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.awaitMoving(l)
	if !reply {
		return true
	}
	if p.delay > 0 {
		delay := p.delay
		p.mu.Unlock()
		time.Sleep(delay) // the fault itself
		p.mu.Lock()
		p.awaitMoving(l)
	}
	switch {
	case p.lose > 0:
		p.lose--
		p.lost++
		p.drop(l, true)
		return false
	case p.fault == swallowing:
		p.lost++
		l.silent = true
	}
	return !l.silent
}

// awaitMoving returns when bytes may move, or the link is gone. p.mu is held.
func (p *Proxy) awaitMoving(l *link) {
	for p.fault == stalled {
		if _, open := p.links[l]; !open {
			return
		}
		p.change.Wait()
	}
}

func (p *Proxy) remove(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(l, false)
}

// p.mu is held from here on.
func (p *Proxy) drop(l *link, reset bool) {
	if _, open := p.links[l]; open {
		delete(p.links, l)
		l.close(reset)
		p.change.Broadcast()
	}
}

func (p *Proxy) resetAll() {
	for l := range p.links {
		p.drop(l, true)
	}
}

// close closes both ends, the client's with a reset or, after what was sent, with an end of file.
func (l *link) close(reset bool) {
	if tcp, ok := l.client.(*net.TCPConn); ok && reset {
		tcp.SetLinger(0)
	}
	l.client.Close()
	if l.server != nil {
		l.server.Close()
	}
}
