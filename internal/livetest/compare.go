package livetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var (
	somePosition = regexp.MustCompile(`"[0-9a-z]{5,}\.(\d+)"`)
	someID       = regexp.MustCompile(`"[0-9a-f]{32}"`)
)

// Normal returns a frame with its members in a fixed order. The epoch is always "E", and the
// session is always "S".
func Normal(t testing.TB, text string) string {
	t.Helper()
	text = somePosition.ReplaceAllString(text, `"E.$1"`)
	text = someID.ReplaceAllString(text, `"S"`)
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("frame %s: %v", text, err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(v)
	return strings.TrimSpace(b.String())
}

// Same compares the Normal forms of two frames.
func Same(t testing.TB, what, got, want string) {
	t.Helper()
	if g, w := Normal(t, got), Normal(t, want); g != w {
		t.Errorf("%s\ngot  %s\nwant %s", what, g, w)
	}
}

// Check compares the frames that a client got with the frames that it should have got.
func Check(t testing.TB, who, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s got  %s\nwant %s", who, got, want)
	}
}

// Refused checks that a frame is an error.
func Refused(t testing.TB, what string, f Frame, id int, code string) {
	t.Helper()
	if f.Op != "error" || f.ID != id || f.Code != code || f.Message == "" {
		t.Errorf("%s was answered by %s, want the error %s with id %d", what, f.Raw, code, id)
	}
}

// Numbers returns the numbers from one to another.
func Numbers(from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// Padded returns a JSON string that begins with a number and has about size bytes.
func Padded(i, size int) string {
	return fmt.Sprintf(`"%d %s"`, i, strings.Repeat("x", max(size-10, 0)))
}

// NumberOf returns a number, or the one in a string of Padded; -1: data is neither.
func NumberOf(data []byte) int {
	n := -1
	fmt.Sscanf(strings.TrimPrefix(string(data), `"`), "%d", &n)
	return n
}

// Fill returns a plain message of exactly n bytes on topic t.
func Fill(n int) string {
	const head, tail = `{"topic":"t","data":"`, `"}`
	return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
}

// OffsetOf returns the epoch and the offset in a position. The offset is -1 if the position has
// none. A client must not read its positions like that, but a test may.
func OffsetOf(at string) (epoch string, offset int) {
	i := strings.LastIndexByte(at, '.')
	offset, err := strconv.Atoi(at[i+1:])
	if i < 0 || err != nil {
		return at, -1
	}
	return at[:i], offset
}

// DataOf returns the data of past publications.
func DataOf(messages []Past) []string {
	all := make([]string, len(messages))
	for i, m := range messages {
		all[i] = string(m.Data)
	}
	return all
}

// Logged returns a logger, and a function that returns all that was logged.
func Logged() (*slog.Logger, func() string) {
	var log LockedBuffer
	return slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), log.String
}

// LockedBuffer is a bytes.Buffer that several goroutines may use.
type LockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *LockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *LockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
