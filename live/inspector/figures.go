package inspector

import (
	"context"
	"net/http"
	"path"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// readyTimeout is how long the page waits for the broker to say that it is ready.
const readyTimeout = 500 * time.Millisecond

// figures is what the page shows of the servers. Times are Unix times in milliseconds.
type figures struct {
	Now      int64   `json:"now"`
	Ticks    int64   `json:"ticks"`   // milliseconds on a monotonic clock, for rates and lines
	Library  string  `json:"library"` // its version
	Program  string  `json:"program"` // its name, and its version if it has one
	Go       string  `json:"go"`
	NotReady string  `json:"notReady"` // why this server takes no new clients; "": it does
	Nodes    []node  `json:"nodes"`
	Allow    allowed `json:"allow"`
}

// node is a server of the Broker.
type node struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Since     int64      `json:"since"`
	Self      bool       `json:"self"`
	Draining  bool       `json:"draining"`
	SilentFor int64      `json:"silentFor"` // milliseconds since its figures came
	Stats     live.Stats `json:"stats"`
}

// allowed says which of its parts the page shows.
type allowed struct {
	Payloads   bool `json:"payloads"`
	Publish    bool `json:"publish"`
	Close      bool `json:"close"`
	SlowReader bool `json:"slowReader"`
	Drain      bool `json:"drain"`
}

// figures answers with the figures of all servers.
func (in *inspector) figures(r *http.Request) (any, error) {
	b := builtFrom()
	f := figures{
		Library: b.library,
		Program: b.program,
		Go:      runtime.Version(),
		Allow: allowed{
			Payloads:   in.opts.Allow.Payloads,
			Publish:    in.opts.Allow.Publish,
			Close:      in.opts.Allow.Close,
			SlowReader: in.opts.Allow.SlowReader,
			Drain:      in.opts.Drain != nil,
		},
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := in.server.Ready(ctx); err != nil {
		f.NotReady = err.Error()
	}
	nodes := in.server.Nodes()
	now := time.Now() // after Ready, which may take a while
	f.Now, f.Ticks = now.UnixMilli(), clock.Now()/int64(time.Millisecond)
	for _, n := range nodes {
		f.Nodes = append(f.Nodes, node{
			ID:        n.ID,
			Name:      n.Name,
			Since:     f.Now - now.Sub(n.Since).Milliseconds(), // on the clock as it is set now
			Self:      n.Self,
			Draining:  n.Draining,
			SilentFor: now.Sub(n.Heard).Milliseconds(),
			Stats:     n.Stats,
		})
	}
	return f, nil
}

// build says what the program was built from.
type build struct{ library, program string }

// modulePath is the path of this library's module.
const modulePath = "github.com/livetopic/livetopic"

// builtFrom reads what the go command wrote into the program.
var builtFrom = sync.OnceValue(func() build {
	b := build{library: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.program = path.Base(info.Path)
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.program += " " + v
	}
	if info.Main.Path == modulePath {
		b.library = version(info.Main.Version)
	}
	for _, m := range info.Deps {
		if m.Path == modulePath {
			b.library = version(m.Version)
		}
	}
	return b
})

// version returns a version as a person reads it.
func version(v string) string {
	if v == "" || v == "(devel)" {
		return "development build"
	}
	return v
}
