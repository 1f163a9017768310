package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"

	"github.com/livetopic/livetopic/live/broker"
)

// guarded is a Recoverer whose panics are errors: it is asked in goroutines that serve many
// sessions, and a broker of somebody's own must not end the process.
type guarded struct {
	broker.Recoverer
	server *Server
}

var errBrokerPanicked = errors.New("live: the broker panicked")

func (g guarded) Last(ctx context.Context, topic string) (at Position, err error) {
	defer g.catch("Last", topic, &err)
	return g.Recoverer.Last(ctx, topic)
}

func (g guarded) Read(ctx context.Context, topic string, after, upto uint64, limit int) (p broker.Page, err error) {
	defer g.catch("Read", topic, &err)
	return g.Recoverer.Read(ctx, topic, after, upto, limit)
}

func (g guarded) Tail(ctx context.Context, topic string, limit int) (p broker.Page, err error) {
	defer g.catch("Tail", topic, &err)
	return g.Recoverer.Tail(ctx, topic, limit)
}

func (g guarded) catch(method, topic string, err *error) {
	if p := recover(); p != nil {
		g.server.panicked("Recoverer."+method, p, "topic", topic)
		*err = errBrokerPanicked
	}
}

// callSafely runs a callback that belongs to no session. who and value name what it is
// about.
func (s *Server) callSafely(callback, who, value string, call func()) {
	returned := false
	defer func() {
		if !returned {
			p := recover()
			if p == nil {
				p = "runtime.Goexit"
			}
			s.panicked(callback, p, who, value)
		}
	}()
	call()
	returned = true
}

// callApart is callSafely in a goroutine of its own. So a callback that calls runtime.Goexit does not end
// the goroutine of the caller, which others need.
func (s *Server) callApart(callback, who, value string, call func()) {
	returned := make(chan struct{})
	go func() { // ends when call returns
		defer close(returned)
		s.callSafely(callback, who, value, call)
	}()
	<-returned
}

// guard runs a function of the options for a handshake. A panic in it refuses that
// client only.
func (s *Server) guard(name string, r *http.Request, call func()) (err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		p := recover()
		exits := p == nil
		if exits {
			p = "runtime.Goexit"
		}
		s.panicked(name, p, "remote", r.RemoteAddr)
		err = fmt.Errorf("%w: %s: %v (%w)", ErrPanic, name, p, errInternal)
		if exits { // the caller does not go on. net/http closes the connection without an answer
			s.noteRefusal(r, err)
		}
	}()
	call()
	returned = true
	return nil
}

// panicked counts and logs a callback that did not return. who and value name whose it was.
func (s *Server) panicked(callback string, p any, who, value string) {
	s.counters.panics.Add(1)
	s.logOfClient(slog.LevelError, "live: callback panicked",
		"callback", callback, who, value, "panic", p, "stack", string(debug.Stack()))
}
