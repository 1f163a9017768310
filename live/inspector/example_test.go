package inspector_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// The page behind the application's own sign-in. A person may look, and close sessions.
func ExampleNew() {
	server := live.New(live.Options{})
	isAdmin := func(r *http.Request) bool {
		user, password, ok := r.BasicAuth()
		return ok && user == "admin" && password == os.Getenv("ADMIN_PASSWORD") && password != ""
	}

	http.Handle("/inspect/", inspector.New(server, inspector.Options{
		Auth: func(r *http.Request) error {
			if !isAdmin(r) {
				return errors.New("not an admin") // 403
			}
			return nil
		},
		Allow: inspector.Allow{Close: true},
	}))
}

// On a developer's machine nobody needs to sign in, and everything may be tried.
func ExampleLoopback() {
	server := live.New(live.Options{})
	http.Handle("/inspect/", inspector.New(server, inspector.Options{
		Auth:  inspector.Loopback,
		Allow: inspector.Allow{Payloads: true, Publish: true, Close: true, SlowReader: true},
		Drain: server.Shutdown,
	}))
}

// The snippets of docs/inspector.md are here, too.

func mount(mux *http.ServeMux, server *live.Server, isAdmin func(*http.Request) bool) {
	mux.Handle("/inspect/", inspector.New(server, inspector.Options{
		Auth: func(r *http.Request) error {
			if !isAdmin(r) {
				return errors.New("not an admin")
			}
			return nil
		},
	}))
}

func mountBehind(mux *http.ServeMux, server *live.Server, onlyAdmins func(http.Handler) http.Handler) {
	mux.Handle("/inspect/", onlyAdmins(inspector.New(server, inspector.Options{Insecure: true})))
}

func mountForDevelopment(mux *http.ServeMux, server *live.Server) {
	mux.Handle("/inspect/", inspector.New(server, inspector.Options{
		Auth:  inspector.Loopback,
		Allow: inspector.Allow{Payloads: true, Publish: true, Close: true, SlowReader: true},
		Drain: server.Shutdown,
	}))
}

func slowest(server *live.Server) {
	byQueue := func(a, b live.SessionStats) int { return b.QueuedBytes - a.QueuedBytes }
	var all []live.SessionStats
	for s := range server.Sessions() {
		all = append(all, s.Stats())
	}
	slices.SortFunc(all, byQueue)
	for _, st := range all[:min(len(all), 10)] {
		fmt.Println(st.UserID, st.QueuedBytes, "bytes wait; last heard of at", st.Heard)
	}
}

func busiest(server *live.Server) {
	before := make(map[string]uint64)
	for st := range server.Topics() {
		before[st.Topic] = st.Published
	}
	time.Sleep(10 * time.Second)
	for st := range server.Topics() {
		if n, known := before[st.Topic]; known && st.Published >= n {
			log.Print(st.Topic, ": ", (st.Published-n)/10, " publications a second to ", st.Subscribers, " subscribers")
		}
	}
}

func whyGone(server *live.Server, user string) {
	for _, end := range server.RecentEnds() {
		if end.UserID == user {
			fmt.Println(end.Time, end.Why, end.Code, end.Reason, end.Error, end.QueuedBytes, "bytes waited")
		}
	}
}

var _ = []any{mount, mountBehind, mountForDevelopment, slowest, busiest, whyGone}

// Every Go snippet of docs/inspector.md is also in this file, where it is compiled.
func TestSnippetsOfTheInspectorPageCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../../docs/inspector.md"), 5, "go"), "example_test.go")
}
