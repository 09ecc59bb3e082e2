// Package client is the page's half of ticketgate: an ES module without dependencies, and the
// handler that serves it.
//
//	mux.Handle("GET /ticketgate.js", client.Handler())
//
// A page then says
//
//	import { TicketSocket } from '/ticketgate.js'
//	const socket = new TicketSocket('/ws')
//
// A TicketSocket has the interface of the browser's WebSocket, and gets a ticket before it opens.
// A library that takes a constructor takes TicketSocket, or TicketSocket.with(settings). The
// module also has connect, which keeps a socket open; ticketed, for an EventSource, an image or a
// download; signIn and verdict. ticketgate.d.ts declares them all and states every default. The
// folder of this package is an npm package as well, for a bundler.
//
// # What to do after a close
//
// Verdict says what a page does about a close code and its reason. A refused mint has the same
// codes: 401 and a redirect are 4401, 403 is 4403, 429 is 4429, another 4xx is 4400, and
// whatever is not ticketgate's own JSON (a proxy's 403, a 404, no network) is 1013.
//
//	4401  ticket_rejected    retry     at once the first time, then after a while
//	4401  any other          sign-in   no session (any more)
//	4403  any                stop      the Origin, or a ticket for another endpoint
//	4400  any                stop      the server does not understand this page
//	4429  evicted            stop      a newer socket took the place
//	4429  any other          wait      too many
//	1013  any                wait      it could not be decided
//	1001  any                wait      the server goes away
//	      any other          wait
//
// A page can read these codes where the Guard is made with middleware's [RejectByClosing].
//
// # Where a ticket can be seen
//
// By default the ticket is in the query of the socket's URL, and a browser writes that URL to its
// console when the handshake fails. With carrier 'protocol' it is in no URL, no console, no report
// of a Content-Security-Policy and no performance entry; it then needs a subprotocol beside it,
// which the server chooses. An address of ticketed is in performance.getEntries, and is used up.
//
// [RejectByClosing]: https://pkg.go.dev/github.com/ticketgate/ticketgate/middleware#RejectByClosing
package client

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed ticketgate.js
var module []byte

// Handler serves ticketgate.js, under whatever path it is mounted. It answers GET and HEAD; a
// browser keeps the module and asks each time whether it has changed.
func Handler() http.Handler {
	sum := sha256.Sum256(module)
	etag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Etag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(module))
	})
}
