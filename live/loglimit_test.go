package live

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lines is a logger's handler that keeps what is logged.
type lines struct {
	slog.Handler
	all *[]string
}

func (l lines) Enabled(context.Context, slog.Level) bool { return true }

func (l lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	*l.all = append(*l.all, text)
	return nil
}

// Ten lines of a kind at once, then one a second, with how many were left out; other kinds
// are counted apart.
func TestWhatClientsDoIsLoggedAtABoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []string
		s := New(Options{Logger: slog.New(lines{all: &all})})
		for range 1000 {
			s.logOfClient(slog.LevelWarn, "a", "n", 1)
		}
		s.logOfClient(slog.LevelWarn, "b")
		if len(all) != 11 || all[10] != "b" {
			t.Fatalf("%d lines: %q", len(all), all)
		}
		time.Sleep(3 * time.Second)
		for range 1000 {
			s.logOfClient(slog.LevelWarn, "a")
		}
		if len(all) != 14 || !strings.Contains(all[11], "left_out=990") || all[12] != "a" {
			t.Fatalf("%d lines: %q", len(all), all)
		}
	})
}
