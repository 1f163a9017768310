package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"

	"github.com/livetopic/livetopic/live"
)

// subprotocol is what docs/protocol.md calls it.
const subprotocol = "live.v1"

// v1 is a client of live.v1: gorilla's, with the frames understood.
type v1 struct {
	*client
	hello frame
}

// frame is one frame from the server. Members that a frame may lack are pointers
// where that matters.
type frame struct {
	Op        string          `json:"op"`
	ID        uint64          `json:"id"`
	Topic     string          `json:"topic"`
	Data      json.RawMessage `json:"data"`
	At        string          `json:"at"`
	Recovered *bool           `json:"recovered"`
	Messages  *[]past         `json:"messages"`
	Text      *string         `json:"text"`
	More      bool            `json:"more"`
	Code      string          `json:"code"`
	Message   string          `json:"message"`
	Version   int             `json:"version"`
	Session   string          `json:"session"`
	Ping      int             `json:"ping"`
	Within    int             `json:"within"`
	Largest   int             `json:"largest"`

	text string // as it came
}

// past is a publication in a reply.
type past struct {
	Data json.RawMessage `json:"data"`
	At   string          `json:"at"`
}

func (f frame) recovered() bool { return f.Recovered != nil && *f.Recovered }

func (f frame) messages() []past {
	if f.Messages == nil {
		return nil
	}
	return *f.Messages
}

func (f frame) isPublication() bool { return f.Op == "" }

// parseFrame reads a frame, in which the page must know every member and its use.
func parseFrame(text string) (frame, error) {
	f := frame{text: text}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&f)
	if err == nil {
		err = f.misuse()
	}
	return f, err
}

// misuse returns what is wrong with the members of a frame.
func (f frame) misuse() error {
	switch {
	case f.isPublication() && f.Recovered != nil && !*f.Recovered:
		return errors.New(`a publication has "recovered":false`)
	case f.isPublication() && f.Recovered != nil && f.At == "":
		return errors.New("a recovered publication has no position")
	case f.More && (f.Op != "reply" || f.Messages == nil):
		return errors.New("more is for a reply with messages")
	case f.Text != nil && f.Op != "part" && f.Op != "reply":
		return errors.New("text is for a part and a reply")
	case f.Text != nil && f.Data != nil, f.Op == "part" && (f.Text == nil || f.ID == 0):
		return errors.New("a part has an id and text, and no data")
	}
	return nil
}

func tryV1(t testing.TB, e endpoint, header http.Header, offers ...string) (*client, error) {
	dialer := &gorilla.Dialer{
		TLSClientConfig:  e.tls,
		HandshakeTimeout: patience,
		Subprotocols:     append([]string{subprotocol}, offers...),
	}
	l := library{"gorilla", func(e endpoint, header http.Header, in *inbox) (peer, *http.Response, error) {
		return dialGorillaWith(dialer, e, header, in)
	}}
	return l.tryConnect(t, e, header)
}

// dialV1 connects, and reads hello.
func dialV1(t testing.TB, e endpoint, offers ...string) *v1 {
	t.Helper()
	c, err := tryV1(t, e, nil, offers...)
	if err != nil {
		t.Fatalf("cannot connect: %v", err)
	}
	if got := c.response.Header.Get("Sec-WebSocket-Protocol"); got != subprotocol {
		t.Fatalf("the server agreed to %q", got)
	}
	v := &v1{client: c}
	if v.hello = v.next(); v.hello.Op != "hello" {
		t.Fatalf("the first frame is %s, want hello", v.hello.text)
	}
	return v
}

// next returns the next frame that is no ping, and answers pings. No answer may come in a
// frame that is too large.
func (c *v1) next() frame {
	c.t.Helper()
	for {
		f, err := parseFrame(c.read())
		if err != nil {
			c.t.Fatalf("frame %s: %v", f.text, err)
		}
		f.checkSize(c.t)
		if f.Op != "ping" {
			return f
		}
		c.send(`{"op":"pong"}`)
	}
}

// answer returns the next reply or error, and what came before its end. An answer
// in parts is joined to one frame.
func (c *v1) answer() (f frame, before []frame) {
	c.t.Helper()
	var parts answerParts
	for {
		switch f := c.next(); {
		case f.Op != "reply" && f.Op != "part" && f.Op != "error":
			before = append(before, f)
		case parts.add(c.t, &f):
			return f, before
		}
	}
}

// do sends an operation and returns its answer, which must be the next frame. An answer
// in parts is joined to one frame; nothing may come between them.
func (c *v1) do(text string) frame {
	c.t.Helper()
	c.send(text)
	var parts answerParts
	for {
		f := c.next()
		if parts.add(c.t, &f) {
			return f
		}
	}
}

// must is do for what must succeed.
func (c *v1) must(text string) frame {
	c.t.Helper()
	f := c.do(text)
	if f.Op != "reply" {
		c.t.Fatalf("%s was answered by %s", text, f.text)
	}
	return f
}

// settled does an operation that changes nothing: what was due before has come
// before its answer, and is returned.
func (c *v1) settled() []frame {
	c.t.Helper()
	c.send(`{"op":"unsubscribe","id":999999,"topic":"no such topic"}`)
	for i := 0; ; i++ {
		f, before := c.answer()
		if f.ID == 999999 {
			return before
		}
		c.t.Fatalf("got %s while nothing was due", f.text)
	}
}

// hears reads the next frames, which must be new publications of a topic with data.
func (c *v1) hears(topic string, data ...string) []frame {
	c.t.Helper()
	all := make([]frame, len(data))
	for i, want := range data {
		f := c.next()
		if !f.isPublication() || f.Topic != topic || string(f.Data) != want || f.Recovered != nil {
			c.t.Fatalf("got %.300s, want %s on %s, which is new", f.text, want, topic)
		}
		all[i] = f
	}
	return all
}

func subscribeTo(id int, topic string) string {
	return fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":%q}`, id, topic)
}

func resumeFrom(id int, topic, since string) string {
	return fmt.Sprintf(`{"op":"subscribe","id":%d,"topic":%q,"since":%q}`, id, topic, since)
}

func unsubscribeFrom(id int, topic string) string {
	return fmt.Sprintf(`{"op":"unsubscribe","id":%d,"topic":%q}`, id, topic)
}

// quiet is for servers whose clients do what is worth a log.
var quiet = slog.New(slog.DiscardHandler)

// permissive returns options under which a client may do everything. Topics whose
// names begin with "chat" keep 100 publications.
func permissive() live.Options {
	return live.Options{
		Logger:      quiet,
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		OnPublish:   func(context.Context, *live.Session, string, []byte) error { return nil },
		OnRequest: func(_ context.Context, _ *live.Session, _ string, data []byte) (any, error) {
			return json.RawMessage(data), nil
		},
		Topics: keeping("chat", live.TopicOptions{History: 100}),
	}
}

// keeping gives topics whose name begins so these options.
func keeping(prefix string, o live.TopicOptions) func(string) live.TopicOptions {
	return func(topic string) live.TopicOptions {
		if strings.HasPrefix(topic, prefix) {
			return o
		}
		return live.TopicOptions{}
	}
}

// logged returns a logger, and what it wrote.
func logged(t testing.TB) (*slog.Logger, func() string) {
	var log lockedBuffer
	return slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), log.String
}

var (
	somePosition = regexp.MustCompile(`"[0-9a-z]{5,}\.(\d+)"`)
	someID       = regexp.MustCompile(`"[0-9a-f]{32}"`)
)

// normal returns a frame with its members in one order, an epoch that is always
// "E", and a session that is always "S".
func normal(t testing.TB, text string) string {
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

// same compares two frames as JSON.
func same(t testing.TB, what, got, want string) {
	t.Helper()
	if g, w := normal(t, got), normal(t, want); g != w {
		t.Errorf("%s\ngot  %s\nwant %s", what, g, w)
	}
}

// refused checks that a frame is an error.
func refused(t testing.TB, what string, f frame, id uint64, code string) {
	t.Helper()
	if f.Op != "error" || f.ID != id || f.Code != code || f.Message == "" {
		t.Errorf("%s was answered by %s, want the error %s with id %d", what, f.text, code, id)
	}
}

func numbers(from, to int) []string {
	var all []string
	for i := from; i <= to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
