package livetest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// fakeTB is a test that may fail. Its failures are recorded.
type fakeTB struct {
	testing.TB // the true test, for what is not recorded

	mu       sync.Mutex // guards the fields below
	helpers  map[string]bool
	cleanups []func()
	failures []string
	lines    []string // of the source, to which the failures point
}

// fake runs a test that may fail, and its cleanups.
func fake(t *testing.T, test func(t testing.TB)) *fakeTB {
	f := &fakeTB{TB: t, helpers: make(map[string]bool)}
	f.run(func() { test(f) })
	for len(f.cleanups) > 0 {
		last := len(f.cleanups) - 1
		cleanup := f.cleanups[last]
		f.cleanups = f.cleanups[:last]
		f.run(cleanup)
	}
	return f
}

// run runs f in a goroutine of its own, which Fatalf ends.
func (f *fakeTB) run(test func()) {
	var running sync.WaitGroup
	running.Go(test)
	running.Wait()
}

func (f *fakeTB) Cleanup(cleanup func()) { f.cleanups = append(f.cleanups, cleanup) }
func (f *fakeTB) Output() io.Writer      { return io.Discard }

// Helper marks the function that calls it, as testing does.
func (f *fakeTB) Helper() {
	frame := callers(3)[0]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.helpers[frame.Function] = true
}

func (f *fakeTB) Errorf(format string, args ...any) { f.record(fmt.Sprintf(format, args...)) }

func (f *fakeTB) Fatalf(format string, args ...any) {
	f.record(fmt.Sprintf(format, args...))
	runtime.Goexit()
}

// record notes a failure, and the line that testing would print with it: the first line of a function
// that is not a helper.
func (f *fakeTB) record(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := ""
	for _, frame := range callers(4) {
		if !f.helpers[frame.Function] {
			line = sourceLine(frame)
			break
		}
	}
	f.failures = append(f.failures, text)
	f.lines = append(f.lines, line)
}

func callers(skip int) (all []runtime.Frame) {
	pcs := make([]uintptr, 50)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(skip, pcs)])
	for {
		frame, more := frames.Next()
		all = append(all, frame)
		if !more {
			return all
		}
	}
}

func sourceLine(frame runtime.Frame) string {
	source, err := os.ReadFile(frame.File)
	if err != nil {
		return err.Error()
	}
	return strings.Split(string(source), "\n")[frame.Line-1]
}

// noGoroutinesLeft checks, at the end of the test, that as many goroutines run as do now.
func noGoroutinesLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		livetest.Eventually(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before })
	})
}

// open returns options with which clients of live.v1 may do everything except with the topic
// "private". OnMessage publishes what a client sends to its topic.
func open() (opts live.Options, server **live.Server) {
	server = new(*live.Server)
	check := func(topic string) error {
		if topic == "private" {
			return &live.ClientError{Code: "private", Message: "members only"}
		}
		return nil
	}
	return live.Options{
		Logger:      slog.New(slog.DiscardHandler),
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error { return check(topic) },
		OnPublish: func(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
			return data, check(topic)
		},
		OnRequest: func(_ context.Context, _ *live.Session, topic string, data []byte) (any, error) {
			return json.RawMessage(data), check(topic)
		},
		OnPresence: func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil },
		OnMessage: func(_ context.Context, _ *live.Session, topic string, data []byte) {
			(*server).Publish(topic, data)
		},
		Topics: func(topic string) live.TopicOptions {
			switch {
			case strings.HasPrefix(topic, "kept"):
				return live.TopicOptions{History: 3}
			case topic == "table":
				return live.TopicOptions{Keyed: true}
			case topic == "state":
				return live.TopicOptions{Snapshot: func(context.Context, string) (any, error) {
					return map[string]any{"rows": []int{1, 2}}, nil
				}}
			case topic == "hall":
				return live.TopicOptions{Presence: live.PresenceVisible}
			case topic == "counted":
				return live.TopicOptions{Presence: live.PresenceCounted}
			}
			return live.TopicOptions{}
		},
		PresenceGrace: -1,
	}, server
}

// mounted returns a handler as an application has it: at a path, behind a middleware.
func mounted(server *live.Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", server.Handler())
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "user", Value: r.FormValue("user"), Path: "/"})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(unwraps{w}, r)
	})
}

type unwraps struct{ http.ResponseWriter }

func (w unwraps) Unwrap() http.ResponseWriter { return w.ResponseWriter }
