package testserver

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

// How long the answer to a revocation waits for the close of each socket to be
// written down. A socket that ignores its close frame has one second.
const endingWait = 3 * time.Second

// liveSession is a row group of the table of who is connected.
type liveSession struct {
	Session   string       `json:"session"`
	UserID    string       `json:"user_id"`
	Provider  string       `json:"provider"`
	StartedAt time.Time    `json:"started_at"`
	ExpiresAt time.Time    `json:"expires_at"`
	Current   bool         `json:"current"` // of the browser that asks
	Sockets   []liveSocket `json:"sockets"`
}

type liveSocket struct {
	ID       string    `json:"id"`
	Path     string    `json:"path"`
	IP       string    `json:"ip"`
	OpenedAt time.Time `json:"opened_at"`
	BytesIn  int64     `json:"bytes_in"`
	BytesOut int64     `json:"bytes_out"`
}

// ending is what a sign-out or a revocation came to.
type ending struct {
	Sessions int            `json:"sessions"`
	Sockets  []closedSocket `json:"sockets"`
}

// closedSocket is a line ws_closed of the audit: what the page was told.
type closedSocket struct {
	ID        string `json:"socket_id"`
	Path      string `json:"path"`
	UserID    string `json:"user_id"`
	Reason    string `json:"reason"`
	CloseCode int    `json:"close_code"` // 0: a stream, which has none
}

// listSessions shows everybody who is signed in, and their live connections.
func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) {
	current := shown(me(r).ID)
	live := make([]*liveSession, 0)
	bySession := make(map[string]*liveSession)
	sessions, err := s.sessions.list(r.Context())
	if err != nil {
		unavailable(w, err)
		return
	}
	for _, m := range sessions {
		row := &liveSession{
			Session:   shown(m.ID),
			UserID:    m.UserID,
			Provider:  m.Provider,
			StartedAt: m.StartedAt,
			ExpiresAt: m.ExpiresAt,
			Sockets:   []liveSocket{},
		}
		row.Current = row.Session == current
		bySession[row.Session] = row
		live = append(live, row)
	}
	for info := range s.sockets.All() {
		if row := bySession[info.Session]; row != nil {
			row.Sockets = append(row.Sockets, liveSocket{
				ID: info.ID, Path: info.Path, IP: info.IP,
				OpenedAt: info.OpenedAt, BytesIn: info.BytesIn, BytesOut: info.BytesOut,
			})
		}
	}
	writeJSON(w, http.StatusOK, live)
}

// selection says whose sessions end.
type selection func(middleware.Session) bool

func only(id string) selection {
	return func(m middleware.Session) bool { return m.ID == id }
}

// end ends sessions in the order that matters: first in the application's own
// store, so that no page comes back with its cookie; then their tickets and
// their sockets. It returns what each socket was told.
func (s *Server) end(
	ctx context.Context, which selection, reason string,
) ([]middleware.Session, []closedSocket, error) {
	_, lines, stop := s.lines.subscribe("")
	defer stop()

	ended, err := s.sessions.end(ctx, which)
	if err != nil && len(ended) == 0 {
		return nil, nil, err
	}
	gone := make(map[string]bool)
	for _, m := range ended {
		gone[shown(m.ID)] = true
	}
	waiting := make(map[string]bool)
	for info := range s.sockets.All() {
		if gone[info.Session] {
			waiting[info.ID] = true
		}
	}

	// One by one, also where it is all of a person's: this store knows them all,
	// while a revocation of the person would reach some seconds ahead, for other
	// servers' clocks, and catch a person who signs in again at once.
	for _, m := range ended {
		revocation := tickets.Revocation{SessionID: m.ID, Reason: reason}
		if err := s.issuer.Revoke(ctx, revocation); err != nil {
			return nil, nil, err
		}
	}
	return ended, closed(ctx, lines, waiting), err
}

// closed reads the audit until each of the sockets that are waited for has its
// line there.
func closed(ctx context.Context, lines <-chan line, waiting map[string]bool) []closedSocket {
	ctx, cancel := context.WithTimeout(ctx, endingWait)
	defer cancel()
	told := []closedSocket{}
	for len(waiting) > 0 {
		select {
		case l, ok := <-lines:
			if !ok {
				return told
			}
			var closing struct {
				Event audit.Event `json:"event"`
				closedSocket
			}
			err := json.Unmarshal(l.json, &closing)
			if err == nil && closing.Event == audit.SocketClosed && waiting[closing.ID] {
				delete(waiting, closing.ID)
				told = append(told, closing.closedSocket)
			}
		case <-ctx.Done():
			return told
		}
	}
	return told
}
