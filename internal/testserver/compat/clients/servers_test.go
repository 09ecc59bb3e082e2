package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/coder/websocket"
	"github.com/vektah/gqlparser/v2"
	"github.com/vektah/gqlparser/v2/ast"

	"github.com/ticketgate/ticketgate/middleware"
)

// What the libraries of pages talk to: each server says hello to who is there, in the library's
// own protocol.

// serveLibraries adds them to mux, behind the guard.
func serveLibraries(mux *http.ServeMux, wrap func(http.Handler) http.Handler) {
	graph := handler.New(greetings{})
	graph.AddTransport(transport.Websocket{})
	mux.Handle("/graphql", wrap(graph))
	mux.Handle("/yjs/", wrap(&relay{members: make(map[*websocket.Conn]bool)}))
	mux.Handle("/stomp", wrap(talk(stomp)))
	mux.Handle("/trpc", wrap(talk(trpc)))
	mux.Handle("/socket.io/", wrap(talk(socketIO)))
}

func hello(ctx context.Context) string {
	session, _ := middleware.SessionFrom(ctx)
	return "hello " + session.UserID
}

// talk serves a protocol that answers messages with messages; "" is the connection itself.
func talk(protocol func(greeting, message string) (answers []string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r,
			&websocket.AcceptOptions{Subprotocols: []string{"v12.stomp"}})
		if err != nil {
			return
		}
		defer c.CloseNow()
		greeting := hello(r.Context())
		for message := ""; ; {
			for _, answer := range protocol(greeting, message) {
				if c.Write(r.Context(), websocket.MessageText, []byte(answer)) != nil {
					return
				}
			}
			_, next, err := c.Read(r.Context())
			if err != nil {
				return
			}
			message = string(next)
		}
	})
}

// stomp speaks as much of STOMP 1.2 as it takes to greet a subscriber.
func stomp(greeting, message string) []string {
	command, headers, _ := strings.Cut(message, "\n")
	switch command {
	case "CONNECT":
		return []string{"CONNECTED\nversion:1.2\n\n\x00"}
	case "SUBSCRIBE":
		_, id, _ := strings.Cut(headers, "id:")
		id, _, _ = strings.Cut(id, "\n")
		return []string{fmt.Sprintf("MESSAGE\nsubscription:%s\nmessage-id:1\n"+
			"destination:/topic/greetings\n\n%s\x00", id, greeting)}
	}
	return nil
}

// trpc starts every subscription that it is asked for.
func trpc(greeting, message string) (answers []string) {
	type request struct {
		ID     any
		Method string
	}
	var all []request
	if json.Unmarshal([]byte(message), &all) != nil {
		all = make([]request, 1)
		if json.Unmarshal([]byte(message), &all[0]) != nil {
			return nil
		}
	}
	for _, r := range all {
		if r.Method == "subscription" {
			answers = append(answers, fmt.Sprintf(`{"id":%v,"result":{"type":"started"}}`, r.ID),
				fmt.Sprintf(`{"id":%v,"result":{"type":"data","data":%q}}`, r.ID, greeting))
		}
	}
	return answers
}

// socketIO speaks as much of Engine.IO 4 and Socket.IO 5 as it takes.
func socketIO(greeting, message string) []string {
	switch {
	case message == "":
		return []string{`0{"sid":"s","upgrades":[],` +
			`"pingInterval":25000,"pingTimeout":60000,"maxPayload":1000000}`}
	case strings.HasPrefix(message, "40"):
		return []string{`40{"sid":"s"}`, fmt.Sprintf(`42["greeting",%q]`, greeting)}
	}
	return nil
}

// relay passes each message of y-websocket on to all others. The pages hold the text.
type relay struct {
	mu      sync.Mutex
	members map[*websocket.Conn]bool
}

func (y *relay) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer c.CloseNow()
	y.mu.Lock()
	y.members[c] = true
	y.mu.Unlock()
	defer func() {
		y.mu.Lock()
		delete(y.members, c)
		y.mu.Unlock()
	}()
	for {
		_, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if strings.HasPrefix(string(message), "\x00\x00") { // "what do you have?": nothing
			err = c.Write(r.Context(), websocket.MessageBinary, []byte("\x00\x01\x02\x00\x00"))
			if err == nil { // and, to whom has just come: "what do you have?"
				err = c.Write(r.Context(), websocket.MessageBinary, []byte("\x00\x00\x01\x00"))
			}
			if err != nil {
				return
			}
		}
		y.mu.Lock()
		others := make([]*websocket.Conn, 0, len(y.members))
		for other := range y.members {
			if other != c {
				others = append(others, other)
			}
		}
		y.mu.Unlock()
		for _, other := range others {
			_ = other.Write(r.Context(), websocket.MessageBinary, message)
		}
	}
}

// greetings is a GraphQL schema as gqlgen would generate one.
type greetings struct{}

var greetingsSchema = gqlparser.MustLoadSchema(&ast.Source{
	Input: "type Query { x: Int } type Subscription { greeting: String! }"})

func (greetings) Schema() *ast.Schema { return greetingsSchema }

func (greetings) Complexity(context.Context, string, string, int, map[string]any) (int, bool) {
	return 0, false
}

func (greetings) Exec(context.Context) graphql.ResponseHandler {
	greeted := false
	return func(ctx context.Context) *graphql.Response {
		if greeted {
			<-ctx.Done()
			return nil
		}
		greeted = true
		data, _ := json.Marshal(map[string]string{"greeting": hello(ctx)})
		return &graphql.Response{Data: data}
	}
}
