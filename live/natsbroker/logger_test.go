package natsbroker

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// logBook is a slog.Handler that keeps all records.
type logBook struct {
	least slog.Level
	mu    sync.Mutex
	lines []string
}

func (b *logBook) Enabled(_ context.Context, l slog.Level) bool { return l >= b.least }
func (b *logBook) WithAttrs([]slog.Attr) slog.Handler           { return b }
func (b *logBook) WithGroup(string) slog.Handler                { return b }

func (b *logBook) Handle(_ context.Context, r slog.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, r.Level.String()+" "+r.Message)
	return nil
}

func (b *logBook) find(part string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []string
	for _, l := range b.lines {
		if strings.Contains(l, part) {
			found = append(found, l)
		}
	}
	return found
}

func TestOrdinaryLifeIsNotLogged(t *testing.T) {
	for name, c := range map[string]*Cluster{
		"alone":   nil,
		"cluster": {Listen: "127.0.0.1:0", Routes: []string{nobody}, Username: "node", Password: "secret"},
		"web":     {Listen: "127.0.0.1:0", NoStore: true},
	} {
		t.Run(name, func(t *testing.T) {
			book := &logBook{least: slog.LevelInfo}
			e := startNode(t, Options{StoreDir: t.TempDir(), Cluster: c, Logger: slog.New(book)})
			if err := connectTo(t, e).Flush(); err != nil {
				t.Fatal(err)
			}
			stopNode(t, e)
			for _, line := range book.find("") {
				// A node of a cluster rightly reports that it finds no other node.
				if !strings.Contains(line, "Waiting for routing") && !strings.Contains(line, "trying to connect to route") {
					t.Errorf("logged: %s", line)
				}
			}
		})
	}
}

func TestLogHasTheProtocolButNoPayload(t *testing.T) {
	book := &logBook{least: levelTrace}
	e := startNode(t, Options{Logger: slog.New(book)})
	nc := connectTo(t, e)
	nc.Publish("subject", []byte("payload"))
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a trace of the publication", func() bool { return len(book.find("PUB subject")) > 0 })
	stopNode(t, e)
	if found := book.find("payload"); len(found) > 0 {
		t.Errorf("logged: %s", found)
	}
	if len(book.find("DEBUG natsbroker: server: Server is ready")) == 0 {
		t.Error("no notice was logged")
	}
}

// The mender reports a store on a disk that is full. A store in memory has no mender, so the
// server's own message is logged, once.
func TestFullStoreIsReportedWithoutAMender(t *testing.T) {
	for name, c := range map[string]struct {
		dir  string
		want int
	}{"disk": {t.TempDir(), 0}, "memory": {"", 1}} {
		t.Run(name, func(t *testing.T) {
			book := &logBook{least: slog.LevelInfo}
			e := startNode(t, Options{StoreDir: c.dir, Logger: slog.New(book)})
			for range 3 {
				e.running().Errorf("JetStream out of space, will be DISABLED")
			}
			stopNode(t, e)
			if found := book.find("out of space"); len(found) != c.want {
				t.Errorf("logged: %q", found)
			}
		})
	}
}
