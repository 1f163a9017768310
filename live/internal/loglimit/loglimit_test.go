package loglimit

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lines is a slog.Handler that keeps the lines at Info or above.
type lines struct {
	slog.Handler
	all *[]string
}

func (l lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	*l.all = append(*l.all, text)
	return nil
}

// Ten lines with one message are logged at once, then one in a second, with how many were left
// out. Other messages are counted apart. Lines below the logger's level do not count.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all []string
		logger := slog.New(lines{all: &all})
		var l Limiter
		for range 1000 {
			l.Log(logger, slog.LevelDebug, "a")
		}
		for range 1000 {
			l.Log(logger, slog.LevelWarn, "a", "n", 1)
		}
		l.Log(logger, slog.LevelWarn, "b")
		if len(all) != 11 || all[10] != "b" || all[0] != "a n=1" {
			t.Fatalf("%d lines: %q", len(all), all)
		}
		time.Sleep(3 * time.Second)
		for range 1000 {
			l.Log(logger, slog.LevelWarn, "a")
		}
		if len(all) != 14 || !strings.Contains(all[11], "left_out=990") || all[12] != "a" {
			t.Fatalf("%d lines: %q", len(all), all)
		}
		time.Sleep(time.Hour)
		for range 1000 {
			l.Log(logger, slog.LevelWarn, "a")
		}
		if len(all) != 24 {
			t.Fatalf("%d lines after an hour", len(all))
		}
	})
}
