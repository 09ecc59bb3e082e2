package compat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// streams guards what a page asks for and cannot set headers on: EventSource, a
// download link, an <img>. The guard is made with AdmitRequests, and, because such
// an address stands in more places than a socket's, with RequireEndpoint: each
// ticket is for one of them alone, and the page sends {"endpoint": "/files/a.csv"}
// when it mints.
func streams(guard *middleware.Guard, files, events http.Handler) http.Handler {
	mux := http.NewServeMux()
	private := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private, no-store") // its next address is another one
		files.ServeHTTP(w, r)
	}
	mux.Handle("GET /files/", guard.Wrap(http.HandlerFunc(private)))
	mux.Handle("GET /events", guard.Wrap(events))
	return middleware.ConcealTicket(mux) // and the access log in between
}

// serveEvents is a stream for EventSource. It ends with the session: its context
// is done, and writing fails. EventSource reconnects by itself to the same
// address, whose ticket is spent: it gets 401 and stops. The page makes another
// one, with a fresh ticket and ?after= the last id that it has seen: a new
// EventSource sends no Last-Event-ID.
func serveEvents(next func(ctx context.Context, after int) (string, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		after, _ := strconv.Atoi(r.FormValue("after"))
		for ; ; after++ {
			event, err := next(r.Context(), after)
			if err != nil {
				return
			}
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", after+1, event)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
		}
	}
}

var streamOptions = doorOptions{
	guard: middleware.GuardOptions{AdmitRequests: true, RequireEndpoint: true}}

func Example_streams() {
	d := newDoors(everybody, streamOptions)
	report := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, _ := middleware.SessionFrom(r.Context())
		fmt.Fprintf(w, "%s for %s", r.URL, session.UserID)
	})
	server := httptest.NewServer(streams(d.guard, report, http.NotFoundHandler()))
	defer server.Close()

	page := newVisitor(server)
	ticket := string(must(d.issuer.Mint(context.Background(), tickets.Grant{
		SessionID: "s1", UserID: "ann", Endpoint: "/files/report.csv",
	})))
	fmt.Println(page.get("/files/report.csv?year=2026&ticket=" + ticket).text)
	fmt.Println(page.get("/files/report.csv?year=2026&ticket=" + ticket).status)
	// Output:
	// /files/report.csv?year=2026 for ann
	// 401
}

// eventSource is what a browser's does (HTML, section 9.2.3): it reads while there
// is something to read, reconnects to the same address when the connection ends,
// and fails for good at any status but 200.
type eventSource struct {
	v      *visitor
	path   string
	body   io.ReadCloser
	lines  *bufio.Reader
	lastID string
}

func (e *eventSource) connect() int {
	r := must(http.NewRequest("GET", e.v.base+e.path, nil))
	r.Header.Set("Accept", "text/event-stream")
	if e.lastID != "" {
		r.Header.Set("Last-Event-ID", e.lastID)
	}
	response := must(e.v.http.Do(r))
	e.body, e.lines = response.Body, bufio.NewReader(response.Body)
	if response.StatusCode != 200 {
		e.body.Close()
	}
	return response.StatusCode
}

// next returns the data of the next event, or "" where the connection ends.
func (e *eventSource) next() (data string) {
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			e.body.Close()
			return ""
		}
		line = strings.TrimSuffix(line, "\n")
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			e.lastID = id
		}
		if d, ok := strings.CutPrefix(line, "data: "); ok {
			data = d
		}
		if line == "" {
			return data
		}
	}
}

// feed is a log of events; cut ends the streams that read it, as a restart does.
type feed struct {
	next chan struct{} // one token an event that may go out
	cut  chan struct{}
	ends chan error // the cause that each stream's context ended with
}

func (f *feed) read(ctx context.Context, after int) (string, error) {
	select {
	case <-f.next:
		return fmt.Sprint("event ", after+1), nil
	case <-f.cut:
		return "", io.EOF
	case <-ctx.Done():
		f.ends <- context.Cause(ctx)
		return "", ctx.Err()
	}
}

func TestEventSource(t *testing.T) {
	d := newDoors(everybody, streamOptions)
	f := &feed{next: make(chan struct{}), cut: make(chan struct{}), ends: make(chan error, 1)}
	server := httptest.NewServer(streams(d.guard, http.NotFoundHandler(), serveEvents(f.read)))
	defer server.Close()
	fresh := func(after string) *eventSource {
		ticket := must(d.issuer.Mint(t.Context(),
			tickets.Grant{SessionID: "s1", UserID: "ann", Endpoint: "/events"}))
		return &eventSource{v: newVisitor(server),
			path: "/events?after=" + after + "&ticket=" + string(ticket)}
	}

	source := fresh("")
	go func() { f.next <- struct{}{} }()
	require.Equal(t, 200, source.connect())
	require.Equal(t, "event 1", source.next())
	f.cut <- struct{}{}
	require.Empty(t, source.next())
	require.Equal(t, 401, source.connect(), "its own reconnect: the ticket is spent, and it stops")

	again := fresh(source.lastID)
	go func() { f.next <- struct{}{} }()
	require.Equal(t, 200, again.connect())
	require.Equal(t, "event 2", again.next(), "nothing missed, nothing twice")

	require.NoError(t, d.issuer.Revoke(t.Context(),
		tickets.Revocation{SessionID: "s1", Reason: "logout"}))
	require.Empty(t, again.next())
	var closed *middleware.CloseError
	require.ErrorAs(t, <-f.ends, &closed)
	require.Equal(t, 4401, closed.Code)
	require.Equal(t, "session_revoked", closed.Reason)
	require.Equal(t, 401, again.connect())
}

// A download is as long as a session may end in: the browser must see that it is
// not whole. Resuming it takes a ticket of its own.
func TestDownload(t *testing.T) {
	d := newDoors(everybody, streamOptions)
	const size = 64 << 20 // more than all buffers on the way
	file := func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "report.bin", time.Time{}, io.NewSectionReader(zeros{}, 0, size))
	}
	server := httptest.NewServer(streams(d.guard, http.HandlerFunc(file), http.NotFoundHandler()))
	defer server.Close()
	link := func(session string) string {
		ticket := must(d.issuer.Mint(t.Context(),
			tickets.Grant{SessionID: session, UserID: "ann", Endpoint: "/files/report.bin"}))
		return server.URL + "/files/report.bin?ticket=" + string(ticket)
	}
	get := func(url, ranges string) *http.Response {
		r := must(http.NewRequest("GET", url, nil))
		if ranges != "" {
			r.Header.Set("Range", ranges)
		}
		response, err := server.Client().Do(r)
		require.NoError(t, err)
		return response
	}

	begun := get(link("s1"), "")
	require.Equal(t, "private, no-store", begun.Header.Get("Cache-Control"))
	_, err := io.CopyN(io.Discard, begun.Body, 1<<20)
	require.NoError(t, err)
	require.NoError(t, d.issuer.Revoke(t.Context(), tickets.Revocation{SessionID: "s1"}))
	n, err := io.Copy(io.Discard, begun.Body)
	begun.Body.Close()
	require.Error(t, err)
	require.False(t, errors.Is(err, io.EOF))
	require.Less(t, n, int64(size-1<<20))

	first := link("s2")
	part := get(first, "bytes=0-9")
	require.Equal(t, http.StatusPartialContent, part.StatusCode)
	part.Body.Close()
	anywhere := must(d.issuer.Mint(t.Context(), tickets.Grant{SessionID: "s2", UserID: "ann"}))
	for url, status := range map[string]int{
		server.URL + "/files/report.bin?ticket=" + string(anywhere): http.StatusForbidden,
		first:                            http.StatusUnauthorized, // resumed with the same address
		link("s2"):                       http.StatusPartialContent,
		server.URL + "/files/report.bin": http.StatusUpgradeRequired,
		strings.Replace(link("s2"), "report.bin", "salaries.bin", 1):       http.StatusForbidden,
		server.URL + "/files/report.bin?ticket=" + strings.Repeat("A", 43): http.StatusUnauthorized,
	} {
		response := get(url, "bytes=10-19")
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		assert.Equal(t, status, response.StatusCode, "%s", body)
	}
	head := must(server.Client().Head(link("s2")))
	head.Body.Close()
	require.Equal(t, http.StatusUpgradeRequired, head.StatusCode,
		"it would spend the ticket for nothing")
}

type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}
