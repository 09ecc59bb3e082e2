package testserver

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"github.com/ticketgate/ticketgate/audit"
	"github.com/ticketgate/ticketgate/middleware"
	"github.com/ticketgate/ticketgate/tickets"
)

const maxForm = 4 << 10 // bytes

// signIn takes any name. Scripts use it too: curl -c jar -d user=ada …/login
func (s *Server) signIn(pages *pages) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !parseForm(w, r) {
			return
		}
		user, err := name(r.PostForm.Get("user"))
		if err != nil {
			s.log.Record(r.Context(), audit.LoginFailure, slog.String("provider", provider),
				slog.String("ip", address(r)), slog.String("reason", "name"))
			pages.renderLogin(w, r, http.StatusUnprocessableEntity, err.Error())
			return
		}
		// A new sign-in in the same browser ends the session before it.
		if c, err := r.Cookie(cookieName); err == nil {
			if _, _, err := s.end(r.Context(), only(c.Value), "signed in again"); err != nil {
				unavailable(w, err)
				return
			}
		}
		session, err := s.sessions.start(r.Context(), user)
		if err != nil && !errors.Is(err, errManySessions) {
			unavailable(w, err)
			return
		}
		if err != nil {
			s.log.Record(r.Context(), audit.LoginFailure,
				slog.String("provider", provider), slog.String("user_id", user),
				slog.String("ip", address(r)), slog.String("reason", "too_many"))
			pages.renderLogin(w, r, http.StatusServiceUnavailable, err.Error())
			return
		}
		http.SetCookie(w, cookie(r, session.ID, int(s.sessions.ttl.Seconds())))
		s.log.Record(r.Context(), audit.LoginSuccess,
			slog.String("provider", provider), slog.String("user_id", user),
			slog.String("ip", address(r)), slog.String("session", shown(session.ID)))
		http.Redirect(w, r, middleware.Next(r), http.StatusSeeOther)
	}
}

// signOut ends the session that the browser shows, if it shows one. A page that
// asks for JSON learns what its sockets were told; a form goes to the sign-in.
func (s *Server) signOut(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost { // what a link or an image can do signs nobody out
		w.Header().Set("Allow", http.MethodPost)
		problem(w, http.StatusMethodNotAllowed, "method_not_allowed", "Method Not Allowed")
		return
	}
	http.SetCookie(w, cookie(r, "", -1))
	var out ending
	if c, err := r.Cookie(cookieName); err == nil {
		ended, sockets, err := s.end(r.Context(), only(c.Value), "logout")
		if err != nil {
			unavailable(w, err)
			return
		}
		for _, session := range ended {
			s.log.Record(r.Context(), audit.Logout, slog.String("provider", session.Provider),
				slog.String("user_id", session.UserID), slog.String("ip", address(r)))
		}
		out = ending{Sessions: len(ended), Sockets: sockets}
	}
	if wantsJSON(r) {
		writeJSON(w, http.StatusOK, out)
		return
	}
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// revoke ends one session (form field session, as /api/sessions shows it) or all
// of one person's (user). In this application everybody may end anybody.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	if !parseForm(w, r) {
		return
	}
	one, user := r.PostForm.Get("session"), r.PostForm.Get("user")
	var which selection
	switch {
	case one != "" && user == "":
		which = func(m middleware.Session) bool { return shown(m.ID) == one }
	case user != "" && one == "":
		which = func(m middleware.Session) bool { return m.UserID == user }
	default:
		problem(w, http.StatusBadRequest, "bad_request", "name a session or a user")
		return
	}
	ended, sockets, err := s.end(r.Context(), which, "revoked by "+me(r).UserID)
	if err != nil {
		unavailable(w, err)
		return
	}
	if len(ended) == 0 {
		problem(w, http.StatusNotFound, "not_found", "nobody is signed in like that")
		return
	}
	writeJSON(w, http.StatusOK, ending{Sessions: len(ended), Sockets: sockets})
}

func (s *Server) me(w http.ResponseWriter, r *http.Request) {
	m := me(r)
	writeJSON(w, http.StatusOK, struct {
		UserID    string `json:"user_id"`
		Provider  string `json:"provider"`
		ExpiresAt int64  `json:"expires_at"` // seconds since 1970
		Session   string `json:"session"`
		TTL       int    `json:"ttl_seconds"` // of a ticket

		Servers []string `json:"servers,omitempty"` // that share their tickets with this one
	}{m.UserID, m.Provider, m.ExpiresAt.Unix(), shown(m.ID),
		int(s.issuer.Lifetime(tickets.Grant{}).Seconds()), s.peers})
}

// me is who the gate let in; it lets nobody else through to a handler.
func me(r *http.Request) middleware.Session {
	if m, ok := middleware.SessionFrom(r.Context()); ok {
		return *m
	}
	return middleware.Session{}
}

func cookie(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name:     cookieName,
		Value:    value,
		Path:     "/",
		MaxAge:   maxAge,
		HttpOnly: true,
		Secure:   r.TLS != nil,
		SameSite: http.SameSiteLaxMode,
	}
}

func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func wantsJSON(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Accept"), "application/json")
}

// parseForm answers for itself where the form is too large or no form.
func parseForm(w http.ResponseWriter, r *http.Request) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	err := r.ParseForm()
	if err == nil {
		return true
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		problem(w, http.StatusRequestEntityTooLarge, "too_large", "Request Entity Too Large")
	} else {
		problem(w, http.StatusBadRequest, "bad_request", "Bad Request")
	}
	return false
}

func unavailable(w http.ResponseWriter, err error) {
	slog.Error("a session could not be revoked", "error", err)
	w.Header().Set("Retry-After", "1")
	problem(w, http.StatusServiceUnavailable, "unavailable", "Service Unavailable")
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	writeJSON(w, status, struct {
		Error  string `json:"error"`
		Detail string `json:"detail"`
	}{code, detail})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
