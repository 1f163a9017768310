package interop

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	mizulive "github.com/go-mizu/mizu/live"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// docs/moving.md says in what live differs from the live package of mizu. Every row of its
// tables is one of the tests below, which have the row's first cell as their name.

// difference is a row that a program tells, which runs with both libraries.
type difference struct {
	row  string
	see  func(r *trial) string // what the program and its clients see
	mizu string                // that with mizu's live
	here string
}

var differences = slices.Concat(handshakes, callbacks, publications, clientMessages, endings, costs)

// heldElsewhere are the rows that would take too long, or that mizu's live cannot be tested for:
// it would be a data race. The tests named hold what the page says of this library.
var heldElsewhere = map[string]string{
	"the slice given to `Publish`": "TestPublisherMayReuseItsData",
	"publishers at the same time":  "TestAllSessionsSeeConcurrentPublishersInOneOrder",
	"the end of a subscription":    "TestNothingFollowsTheReplyToUnsubscribe",
	"memory for a message":         "TestMemoryGrowsWithWhatComes",
	"slow messages":                "TestMessageMayNotComeTooSlowly",
	"clients that take nothing":    "TestWriteTimeoutEndsAClientThatTakesNothing",
	"the end of the process":       "TestShutdownEndsEverything",
	"calls of `OnAuth` at once":    "TestStormOfHandshakesIsWorkedOff",
}

func TestDifferencesOfTheMovingPage(t *testing.T) {
	for _, d := range differences {
		for lib, want := range map[string]string{"mizu": d.mizu, "live": d.here} {
			t.Run(d.row+"/"+lib, func(t *testing.T) {
				t.Parallel()
				if got := d.see(&trial{T: t, mizu: lib == "mizu"}); got != want {
					t.Errorf("\ngot  %s\nwant %s", got, want)
				}
			})
		}
	}
}

func TestWhatTheMovingPageSaysIsTheSame(t *testing.T) {
	for _, s := range sameness {
		for _, lib := range []string{"mizu", "live"} {
			t.Run(s.what+"/"+lib, func(t *testing.T) {
				t.Parallel()
				if got := s.see(&trial{T: t, mizu: lib == "mizu"}); got != s.want {
					t.Errorf("\ngot  %s\nwant %s", got, s.want)
				}
			})
		}
	}
}

func movingPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/moving.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func TestEveryRowOfTheMovingPageIsHeld(t *testing.T) {
	var rows []string
	for _, m := range regexp.MustCompile(`(?m)^\| (.+?) \|`).FindAllStringSubmatch(movingPage(t), -1) {
		if m[1] != "what" {
			rows = append(rows, m[1])
		}
	}
	var held []string
	for _, d := range differences {
		held = append(held, d.row)
	}
	for _, s := range snippets {
		held = append(held, s.row)
	}
	tests := ourTests(t)
	for row, test := range heldElsewhere {
		held = append(held, row)
		if !strings.Contains(tests, "func "+test+"(") {
			t.Errorf("%q: there is no %s", row, test)
		}
	}
	slices.Sort(rows)
	slices.Sort(held)
	for _, row := range rows {
		if !slices.Contains(held, row) {
			t.Errorf("the row %q has no test", row)
		}
	}
	for _, row := range held {
		if !slices.Contains(rows, row) {
			t.Errorf("the test %q has no row", row)
		}
	}
	if len(slices.Compact(slices.Clone(rows))) != len(rows) || len(rows) < 50 {
		t.Errorf("%d rows, perhaps some twice: %q", len(rows), rows)
	}
}

// ourTests is the source of all tests that a row may name.
func ourTests(t *testing.T) string {
	t.Helper()
	var all bytes.Buffer
	for _, pattern := range []string{"*_test.go", "../live/*_test.go", "../live/internal/*/*_test.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("no tests in %s: %v", pattern, err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
	}
	return all.String()
}

// What compiles.

const (
	mizuImport = "github.com/go-mizu/mizu/live"
	ourImport  = "github.com/livetopic/livetopic/live"
)

// snippets compile with mizu's live and not with this one.
var snippets = []struct{ row, code string }{
	{"methods as values", `func f(s *live.Server) { var _ func(string, []byte) = s.Publish }`},
	{"methods as values", `func f(s *live.Server) { var _ func(*live.Session, string) = s.Subscribe }`},
	{"methods as values", `func f(s *live.Server) { var _ func(*live.Session, string) = s.Unsubscribe }`},
	{"interfaces of your own", `var _ interface{ Publish(string, []byte) } = (*live.Server)(nil)`},
	{"`Options` or `Message` without field names", `var _ = live.Options{256, 4096, nil, nil, nil, nil, nil, nil}`},
	{"`Options` or `Message` without field names", `var _ = live.Message{"t", nil}`},
	{"embedding beside another type", `type app struct { *live.Server; *mizu.App }; func f(a app) { a.Listen(":8080") }`},
	{"embedding beside another type", `type room struct{}; func (*room) Listen() {}; type member struct { *live.Session; *room }; func f(m member) { m.Listen() }`},
	{"dot imports", `import . "LIVE"; var _ Message; func Publish() {}`},
}

// common compiles with both.
const common = `
var server *live.Server

func f() {
	server = live.New(live.Options{
		QueueSize: 1, ReadLimit: 1, Origins: nil,
		CheckOrigin: func(*http.Request) bool { return true },
		IDGenerator: func() string { return "" },
		OnAuth:      func(ctx context.Context, r *http.Request) (any, error) { return nil, nil },
		OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
			server.Subscribe(s, topic)
			server.Publish(topic, data)
			go server.Publish(topic, data)
			defer server.Unsubscribe(s, topic)
			publish := server.Publish
			publish(topic, data)
			var err error = s.Send(live.Message{Topic: topic, Data: data})
			if err == live.ErrSessionClosed || errors.Is(err, live.ErrQueueFull) || s.IsClosed() {
				err = s.Close()
			}
			_, _ = s.Value().(string)
			var _ string = s.ID()
		},
		OnClose: func(s *live.Session, err error) { _ = s.CloseError() },
	})
	var _ http.Handler = server.Handler()
}`

func TestWhatCompilesWithBoth(t *testing.T) {
	c := newCompiler(t)
	for _, s := range snippets {
		if err := c.compile(mizuImport, s.code); err != nil {
			t.Errorf("%s: mizu's live does not take it: %v", s.row, err)
		}
		if c.compile(ourImport, s.code) == nil {
			t.Errorf("%s: live takes it", s.row)
		}
	}
	for _, path := range []string{mizuImport, ourImport} {
		if err := c.compile(path, common); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// What the page says to write instead compiles.
func TestSnippetsOfTheMovingPageCompile(t *testing.T) {
	c := newCompiler(t)
	for _, snippet := range livetest.Snippets(t, movingPage(t), 2, "go") {
		code := snippet + "\nvar _ interface{ Publish(string, []byte) } = publisher{}"
		if !strings.HasPrefix(code, "type ") {
			code = "func f(server *live.Server) {\n" + snippet + "var _ func(string, []byte) = notify\n}"
		}
		if err := c.compile(ourImport, code); err != nil {
			t.Errorf("%v in\n%s", err, snippet)
		}
	}
}

// compiler checks code as the Go compiler does, with the packages that this test is built of.
type compiler struct {
	fset     *token.FileSet
	importer types.Importer
}

func newCompiler(t *testing.T) *compiler {
	t.Helper()
	list := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				list = append(list, "-race") // or all would be built anew
			}
		}
	}
	out, err := exec.Command("go", append(list, mizuImport, ourImport, "github.com/go-mizu/mizu")...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		exports[path] = file
	}
	c := &compiler{fset: token.NewFileSet()}
	c.importer = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	return c
}

// compile checks code that calls a package live.
func (c *compiler) compile(live, code string) error {
	imports := ""
	if !strings.Contains(code, "LIVE") {
		imports = fmt.Sprintf("import %q\n", live)
	}
	for _, path := range []string{"context", "errors", "log", "net/http", "github.com/go-mizu/mizu"} {
		if strings.Contains(code, filepath.Base(path)+".") {
			imports += fmt.Sprintf("import %q\n", path)
		}
	}
	file, err := parser.ParseFile(c.fset, "snippet.go", "package p\n"+imports+strings.ReplaceAll(code, "LIVE", live), 0)
	if err != nil {
		return err
	}
	_, err = (&types.Config{Importer: c.importer}).Check("p", c.fset, []*ast.File{file}, nil)
	return err
}

// A program sees both libraries through these types.

type movingServer interface {
	Handler() http.Handler
	publish(topic string, data []byte) error
	subscribe(s movingSession, topic string) error
	unsubscribe(s movingSession, topic string) error
}

type movingSession interface {
	ID() string
	Value() any
	Close() error
	CloseError() error
	IsClosed() bool
	send(topic string, data []byte) error
}

type (
	mizuServer  struct{ *mizulive.Server }
	mizuSession struct{ *mizulive.Session }
	liveServer  struct{ *live.Server }
	liveSession struct{ *live.Session }
)

func (s mizuServer) publish(topic string, data []byte) error {
	s.Publish(topic, data)
	return nil
}

func (s mizuServer) subscribe(of movingSession, topic string) error {
	sess, _ := of.(mizuSession) // nil of nil
	s.Subscribe(sess.Session, topic)
	return nil
}

func (s mizuServer) unsubscribe(of movingSession, topic string) error {
	sess, _ := of.(mizuSession)
	s.Unsubscribe(sess.Session, topic)
	return nil
}

func (s mizuSession) send(topic string, data []byte) error {
	return s.Send(mizulive.Message{Topic: topic, Data: data})
}

func (s liveServer) publish(topic string, data []byte) error { return s.Publish(topic, data) }

func (s liveServer) subscribe(of movingSession, topic string) error {
	sess, _ := of.(liveSession)
	return s.Subscribe(sess.Session, topic)
}

func (s liveServer) unsubscribe(of movingSession, topic string) error {
	sess, _ := of.(liveSession)
	return s.Unsubscribe(sess.Session, topic)
}

func (s liveSession) send(topic string, data []byte) error {
	return s.Send(live.Message{Topic: topic, Data: data})
}

// moving is a program: what it gives to either library.
type moving struct {
	auth        func(ctx context.Context, r *http.Request) (any, error)
	message     func(ctx context.Context, s movingSession, topic string, data []byte) // nil: subscribe, and echo
	closed      func(s movingSession)
	queue       int
	readLimit   int
	origins     []string
	checkOrigin func(r *http.Request) bool
	newID       func() string
	onlyHere    func(o *live.Options) // options that mizu's live does not have

	around       func(h http.Handler) http.Handler
	smallBuffers bool // of the sockets, so that a client that does not read is noticed soon
}

// trial is a program that runs with one of the libraries.
type trial struct {
	*testing.T
	mizu   bool
	server movingServer
	at     livetest.Endpoint
	met    chan movingSession // the sessions of messages
	ends   chan string        // what OnClose got
}

// fresh is for another server in the same test.
func (r *trial) fresh() *trial { return &trial{T: r.T, mizu: r.mizu} }

func (r *trial) start(p moving) {
	r.met, r.ends = make(chan movingSession, 10), make(chan string, 10)
	message := func(ctx context.Context, s movingSession, topic string, data []byte) {
		select {
		case r.met <- s:
		default:
		}
		if p.message != nil {
			p.message(ctx, s, topic, data)
			return
		}
		r.server.subscribe(s, topic)
		s.send(topic, data)
	}
	closed := func(s movingSession, err error) {
		if p.closed != nil {
			p.closed(s)
		}
		r.ends <- r.name(err)
	}
	if r.mizu {
		r.server = mizuServer{mizulive.New(mizulive.Options{
			QueueSize: p.queue, ReadLimit: p.readLimit, Origins: p.origins, CheckOrigin: p.checkOrigin, IDGenerator: p.newID, OnAuth: p.auth,
			OnMessage: func(ctx context.Context, s *mizulive.Session, topic string, data []byte) {
				message(ctx, mizuSession{s}, topic, data)
			},
			OnClose: func(s *mizulive.Session, err error) { closed(mizuSession{s}, err) },
		})}
	} else {
		o := live.Options{
			QueueSize: p.queue, ReadLimit: p.readLimit, Origins: p.origins, CheckOrigin: p.checkOrigin, IDGenerator: p.newID, OnAuth: p.auth,
			OnMessage: func(ctx context.Context, s *live.Session, topic string, data []byte) {
				message(ctx, liveSession{s}, topic, data)
			},
			OnClose: func(s *live.Session, err error) { closed(liveSession{s}, err) },
			Logger:  livetest.Quiet,
		}
		if p.onlyHere != nil {
			p.onlyHere(&o)
		}
		r.server = liveServer{live.New(o)}
	}
	handler := r.server.Handler()
	if p.around != nil {
		handler = p.around(handler)
	}
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if p.smallBuffers {
		s.Listener = livetest.BufferedListener{Listener: s.Listener, Buffer: livetest.SmallBuffer}
	}
	s.Start()
	r.Cleanup(s.Close)
	r.at = livetest.EndpointOf(s)
}

// name is an error as the tables have it.
func (r *trial) name(err error) string {
	if err == nil {
		return "nil"
	}
	known := map[string]error{
		"io.EOF": io.EOF, "ErrSessionClosed": live.ErrSessionClosed, "ErrQueueFull": live.ErrQueueFull, "ErrInvalidTopic": live.ErrInvalidTopic,
		"ErrInvalidData": live.ErrInvalidData, "ErrTooManyTopics": live.ErrTooManyTopics, "ErrPingTimeout": live.ErrPingTimeout,
		"ErrMessageTooBig": live.ErrMessageTooBig, "ErrPanic": live.ErrPanic,
	}
	if r.mizu {
		known = map[string]error{"io.EOF": io.EOF, "ErrSessionClosed": mizulive.ErrSessionClosed, "ErrQueueFull": mizulive.ErrQueueFull}
	}
	for name, e := range known {
		switch {
		case err == e:
			return name
		case errors.Is(err, e):
			return "wraps " + name
		}
	}
	return err.Error()
}

// receive waits for what must come.
func receive[T any](r *trial, what string, from <-chan T) T {
	r.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(livetest.Patience):
		r.Fatalf("no %s", what)
		panic("not reached")
	}
}

// end is what OnClose gets.
func (r *trial) end() string {
	r.Helper()
	return receive(r, "OnClose", r.ends)
}

// How long a test waits for what should come with one library and not with the other, and for
// what should come with neither.
const (
	soon  = time.Second
	brief = 300 * time.Millisecond
)

// connectionCut is how mizu's live ends connections. It closes them, and then tries to send a close frame
// with 1000, which is mostly too late.
const connectionCut = "cut"

// opening is a client's handshake.
type opening struct {
	first      string // line
	connection string // lines
	key        string // lines
	more       string // lines
}

const aKey = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

func (q opening) String() string {
	or := func(text, otherwise string) string {
		if text == "" {
			return otherwise
		}
		return text
	}
	return or(q.first, "GET / HTTP/1.1") + "\r\nHost: app.example\r\n" + or(q.connection, "Connection: Upgrade\r\n") +
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" + or(q.key, aKey) + q.more + "\r\n"
}

// caller is a client whose every byte a test decides.
type caller struct {
	*trial
	net.Conn
	in     *bufio.Reader
	status string // of the handshake's answer, or "no answer"
	header http.Header
	body   string
}

// ask sends a handshake.
func (r *trial) ask(q opening) *caller {
	r.Helper()
	c := &caller{trial: r, Conn: livetest.DialTransport(r, r.at), status: "no answer"}
	c.in = bufio.NewReader(c.Conn)
	if _, err := io.WriteString(c.Conn, q.String()); err != nil {
		r.Fatal(err)
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return c
	}
	c.status, c.header = strconv.Itoa(response.StatusCode), response.Header
	if response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(response.Body)
		c.body = strings.TrimSpace(string(body))
	}
	return c
}

// call connects.
func (r *trial) call() *caller {
	r.Helper()
	c := r.ask(opening{})
	if c.status != "101" {
		r.Fatalf("the handshake was answered with %s %s", c.status, c.body)
	}
	return c
}

// statuses are those of the answers to handshakes with more header lines.
func (r *trial) statuses(more ...string) string {
	r.Helper()
	var all []string
	for _, lines := range more {
		all = append(all, r.ask(opening{more: lines}).status)
	}
	return strings.Join(all, " ")
}

// First bytes of frames.
const (
	aText, aBinary, aClose, aPing, aPong = 0x81, 0x82, 0x88, 0x89, 0x8a
	aBegin, aLast                        = 0x01, 0x80 // fragments of a text
)

// framed is a client's frame.
func framed(first byte, payload string) string {
	return string(livetest.Masked(first, payload))
}

func closeFrame(code int) string {
	return framed(aClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+"bye")
}

// write sends frames at once. An error shows when the client reads.
func (c *caller) write(frames ...string) { io.WriteString(c.Conn, strings.Join(frames, "")) }

// next reads a frame.
func (c *caller) next() (first byte, payload string, err error) {
	var head [8]byte
	read := func(n uint64) []byte {
		b := head[:]
		if n > uint64(len(b)) {
			b = make([]byte, n)
		}
		if err == nil {
			_, err = io.ReadFull(c.in, b[:n])
		}
		return b[:n]
	}
	b := read(2)
	first, n := b[0], uint64(b[1])
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(read(2)))
	case 127:
		n = binary.BigEndian.Uint64(read(8))
	}
	if err != nil {
		return 0, "", err
	}
	return first, string(read(n)), err
}

// hear returns the next text.
func (c *caller) hear() string {
	c.Helper()
	for {
		first, payload, err := c.next()
		if err != nil {
			c.Fatal(err)
		}
		if first == aText {
			return payload
		}
	}
}

// meet returns the session, after its client has subscribed to topic t.
func (c *caller) meet() movingSession {
	c.Helper()
	c.write(framed(aText, `{"topic":"t"}`))
	if got := c.hear(); got != `{"topic":"t"}` {
		c.Fatalf("got %s", got)
	}
	return receive(c.trial, "session", c.met)
}

// rest reads to the end, but for so long at most. It returns the texts that came, and how the
// connection ended.
func (c *caller) rest(atMost time.Duration) (texts []string, end string) {
	c.SetReadDeadline(time.Now().Add(atMost))
	end = connectionCut
	for {
		first, payload, err := c.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && end == connectionCut:
			return texts, "still open"
		case err != nil:
			return texts, end
		case first == aText:
			texts = append(texts, payload)
		case first == aClose:
			end = "no code"
			if len(payload) >= 2 {
				end = strings.TrimSpace(fmt.Sprint(binary.BigEndian.Uint16([]byte(payload)), " ", payload[2:]))
			}
			if end == "1000" {
				end = connectionCut
			}
			c.write(framed(aClose, payload))
		}
	}
}

// handedOver returns what OnMessage gets of a client's frames, in parentheses, and what comes
// back: pongs, and a close code.
func (r *trial) handedOver(frames ...string) string {
	r.start(moving{readLimit: 1000, message: func(_ context.Context, s movingSession, topic string, data []byte) {
		if data == nil {
			data = []byte("none")
		}
		s.send(fmt.Sprintf("(%s: %s)", strings.ToValidUTF8(topic, "?"), strings.ToValidUTF8(string(data), "?")), nil)
	}})
	c := r.call()
	c.write(append(frames, framed(aText, `{"topic":"last"}`))...)
	var all []string
	seen := func(what ...string) string { return strings.Join(append(all, what...), " ") }
	for {
		first, payload, err := c.next()
		switch {
		case err != nil, first == aClose && payload == "\x03\xe8":
			return seen(connectionCut)
		case first == aClose:
			return seen(strconv.Itoa(int(binary.BigEndian.Uint16([]byte(payload)))))
		case first == aPong:
			all = append(all, "pong")
		case first == aText:
			topic, err := strconv.Unquote(strings.TrimSuffix(strings.TrimPrefix(payload, `{"topic":`), `}`))
			if err != nil {
				r.Fatalf("%v: %s", err, payload)
			}
			if topic == "(last: none)" {
				return seen()
			}
			all = append(all, topic)
		}
	}
}

// handedOverEach is handedOver for each of some frames alone.
func (r *trial) handedOverEach(frames ...string) string {
	all := make([]string, len(frames))
	for i, frame := range frames {
		all[i] = r.fresh().handedOver(frame)
	}
	return strings.Join(all, " / ")
}

// endsAfter is what OnClose gets after each of these frames, of a client each.
func (r *trial) endsAfter(frames ...string) string {
	r.start(moving{readLimit: 1000})
	var all []string
	for _, frame := range frames {
		c := r.call()
		c.meet()
		c.write(frame)
		all = append(all, r.end())
	}
	return strings.Join(all, " / ")
}

func originLine(o string) string { return "Origin: " + o + "\r\n" }

// brokenUser has one that panics.
type brokenUser struct{}

func (brokenUser) UserID() string { panic("no user") }

func panicking(*http.Request) bool { panic("no") }

var handshakes = []difference{
	{"pages of other origins", func(r *trial) string {
		r.start(moving{})
		return r.statuses("", originLine("http://app.example"), originLine("https://other.example"), originLine("null"))
	}, "101 101 101 101", "101 101 403 403"},

	{"your own pages and `Origins`", func(r *trial) string {
		r.start(moving{origins: []string{"https://a.example"}})
		return r.statuses("", originLine("http://app.example"), originLine("https://a.example"), originLine("https://b.example"))
	}, "403 403 101 403", "101 101 101 403"},

	{"spelling of `Origins`", func(r *trial) string {
		r.start(moving{origins: []string{"https://A.example", "b.example", "http://c.example:80"}})
		return r.statuses(originLine("https://a.example"), originLine("https://b.example"), originLine("http://c.example"), originLine("http://a.example"))
	}, "403 403 403 403", "101 101 101 403"},

	{"entries that match no page", func(r *trial) string {
		var all []string
		for _, entry := range []string{"https://a.example/path", ""} {
			func() {
				defer func() {
					if recover() != nil {
						all = append(all, "New panics")
					}
				}()
				r := r.fresh()
				r.start(moving{origins: []string{entry}})
				all = append(all, r.statuses("", originLine("https://a.example")))
			}()
		}
		return strings.Join(all, ", ")
	}, "403 403, 101 403", "New panics, New panics"},

	{"requests that are no handshakes", func(r *trial) string {
		r.start(moving{})
		var all []string
		for _, q := range []opening{
			{first: "POST / HTTP/1.1"},
			{first: "GET / HTTP/1.0"},
			{key: aKey + aKey},
			{connection: "Connection: no-upgrade\r\n"},
			{connection: "Connection: keep-alive\r\nConnection: Upgrade\r\n"},
		} {
			all = append(all, r.ask(q).status)
		}
		second := httptest.NewRequest("GET", "/", nil)
		second.Proto, second.ProtoMajor, second.ProtoMinor = "HTTP/2.0", 2, 0
		w := httptest.NewRecorder()
		r.server.Handler().ServeHTTP(w, second)
		return fmt.Sprint(strings.Join(all, " "), " ", w.Code)
	}, "101 101 101 101 400 400", "400 426 400 400 101 426"},

	{"order of checks", func(r *trial) string {
		asked := ""
		r.start(moving{
			checkOrigin: func(*http.Request) bool { asked += " CheckOrigin"; return true },
			auth:        func(context.Context, *http.Request) (any, error) { asked += " OnAuth"; return nil, nil },
		})
		return r.ask(opening{key: "Sec-WebSocket-Key: short\r\n"}).status + asked
	}, "400 CheckOrigin OnAuth", "400"},

	{"text of a refusal", func(r *trial) string {
		r.start(moving{})
		c := r.ask(opening{more: originLine("https://other.example")})
		if c.status == "101" {
			r = r.fresh()
			r.start(moving{checkOrigin: func(*http.Request) bool { return false }})
			c = r.ask(opening{})
		}
		w := httptest.NewRecorder()
		r.server.Handler().ServeHTTP(w, livetest.UpgradeRequest())
		return fmt.Sprint(c.status, " ", c.body == "forbidden origin", " ", strings.Contains(c.body, `"https://other.example"`), " ",
			w.Code, " ", strings.Contains(w.Body.String(), "middleware"))
	}, "403 true false 403 false", "403 false true 500 true"},

	{"time for `OnAuth`", func(r *trial) string {
		var left time.Duration
		r.start(moving{auth: func(ctx context.Context, _ *http.Request) (any, error) {
			if deadline, ok := ctx.Deadline(); ok {
				left = time.Until(deadline)
			}
			return nil, nil
		}})
		r.call()
		late := r.fresh()
		late.start(moving{
			auth: func(ctx context.Context, _ *http.Request) (any, error) {
				select {
				case <-ctx.Done():
				case <-time.After(brief):
				}
				return nil, errors.New("no answer from the database")
			},
			onlyHere: func(o *live.Options) { o.AuthTimeout = brief / 10 },
		})
		return fmt.Sprint(left.Round(10*time.Second), ", ", late.statuses(""))
	}, "0s, 401", "10s, 503"},

	{"panics in `OnAuth` and `CheckOrigin`", func(r *trial) string {
		r.start(moving{auth: func(context.Context, *http.Request) (any, error) { panic("no") }})
		other := r.fresh()
		other.start(moving{checkOrigin: panicking})
		return r.statuses("") + ", " + other.statuses("")
	}, "no answer, no answer", "500, 500"},

	{"values with a `UserID` method", func(r *trial) string {
		r.start(moving{auth: func(context.Context, *http.Request) (any, error) { return brokenUser{}, nil }})
		return r.statuses("")
	}, "101", "500"},

	{"calls of `IDGenerator`", func(r *trial) string {
		made := 0
		r.start(moving{newID: func() string { made++; return "id" }, around: func(h http.Handler) http.Handler {
			return livetest.Wrapped(h, livetest.WithFailingHijack)
		}})
		return fmt.Sprint(r.ask(opening{}).status, ", called ", made)
	}, "500, called 0", "500, called 1"},

	{"middlewares with `Unwrap`", func(r *trial) string {
		r.start(moving{around: func(h http.Handler) http.Handler {
			return livetest.Wrapped(h, livetest.WithUnwrap)
		}})
		return r.statuses("")
	}, "500", "101"},

	{"headers from middlewares", func(r *trial) string {
		r.start(moving{around: func(h http.Handler) http.Handler {
			return livetest.Wrapped(h, livetest.WithHijack)
		}})
		return "X-Wrapped: " + r.call().header.Get("X-Wrapped")
	}, "X-Wrapped: ", "X-Wrapped: yes"},

	{"return of the handler", func(r *trial) string {
		returned := make(chan struct{})
		r.start(moving{around: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				h.ServeHTTP(w, q)
				close(returned)
			})
		}})
		c := r.call()
		c.meet()
		during := "runs"
		select {
		case <-returned:
			during = "has returned"
		case <-time.After(soon):
		}
		c.Close()
		receive(r, "return", returned)
		return during
	}, "runs", "has returned"},

	{"subprotocols", func(r *trial) string {
		r.start(moving{})
		offer := func(protocols string) string {
			return r.ask(opening{more: "Sec-WebSocket-Protocol: " + protocols + "\r\n"}).header.Get("Sec-WebSocket-Protocol")
		}
		return fmt.Sprintf("%q %q", offer("chat"), offer("chat, live.v1"))
	}, `"" ""`, `"" "live.v1"`},
}

var callbacks = []difference{
	{"goroutine of `OnMessage` and `OnClose`", func(r *trial) string {
		recovered := make(chan any, 1)
		r.start(moving{
			message: func(context.Context, movingSession, string, []byte) { panic("from OnMessage") },
			around: func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					defer func() { recovered <- recover() }()
					h.ServeHTTP(w, q)
				})
			},
		})
		r.call().write(framed(aText, `{}`))
		return fmt.Sprint("a middleware recovers ", receive(r, "return", recovered))
	}, "a middleware recovers from OnMessage", "a middleware recovers <nil>"},

	{"panics in `OnMessage`", func(r *trial) string {
		r.start(moving{message: func(_ context.Context, s movingSession, topic string, _ []byte) {
			r.server.subscribe(s, "t")
			if topic == "panic" {
				panic("no")
			}
			s.send(topic, nil)
		}})
		other := r.call()
		other.meet()
		c := r.call()
		c.write(framed(aText, `{"topic":"panic"}`))
		time.Sleep(brief)
		r.server.publish("t", []byte("1"))
		other.hear()
		c.write(framed(aText, `{"topic":"next"}`))
		heard, end := c.rest(brief)
		select {
		case got := <-r.ends:
			return fmt.Sprint(heard, " ", end, ", OnClose got ", got)
		default:
			return fmt.Sprint(heard, " ", end)
		}
	}, `[{"topic":"t","data":1}] still open`, "[] 1011 internal error, OnClose got wraps ErrPanic"},

	{"context of `OnMessage`", func(r *trial) string {
		type key struct{}
		seen := make(chan string, 1)
		r.start(moving{
			message: func(ctx context.Context, _ movingSession, _ string, _ []byte) {
				_, limited := ctx.Deadline()
				seen <- fmt.Sprint(ctx.Value(key{}), ", deadline ", limited, ", ", ctx.Err())
			},
			around: func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
					ctx, cancel := context.WithTimeout(context.WithValue(q.Context(), key{}, "tenant 7"), time.Nanosecond)
					defer cancel()
					h.ServeHTTP(w, q.WithContext(ctx))
				})
			},
		})
		r.call().write(framed(aText, `{}`))
		return receive(r, "message", seen)
	}, "tenant 7, deadline true, context deadline exceeded", "tenant 7, deadline false, <nil>"},

	{"a client that leaves during a callback", func(r *trial) string {
		var calls atomic.Int32
		var told atomic.Bool
		r.start(moving{message: func(ctx context.Context, _ movingSession, _ string, _ []byte) {
			calls.Add(1)
			select {
			case <-ctx.Done():
				told.Store(true)
			case <-time.After(time.Second):
			}
		}})
		r.call().write(framed(aText, `{}`), framed(aText, `{}`), closeFrame(1000))
		r.end()
		return fmt.Sprint(calls.Load(), " of 2 messages, context ended: ", told.Load())
	}, "2 of 2 messages, context ended: false", "1 of 2 messages, context ended: true"},

	{"messages behind a `Close`", func(r *trial) string {
		var calls atomic.Int32
		r.start(moving{message: func(_ context.Context, s movingSession, _ string, _ []byte) {
			calls.Add(1)
			s.Close()
		}})
		r.call().write(framed(aText, `{}`), framed(aText, `{}`), framed(aText, `{}`))
		r.end()
		return fmt.Sprint(calls.Load(), " of 3")
	}, "3 of 3", "1 of 3"},

	{"pings during a callback", func(r *trial) string {
		over := make(chan struct{})
		r.start(moving{message: func(context.Context, movingSession, string, []byte) { <-over }})
		c := r.call()
		c.write(framed(aText, `{}`), framed(aPing, "p"))
		c.SetReadDeadline(time.Now().Add(soon))
		first, payload, err := c.next()
		close(over)
		return fmt.Sprintf("%#x %q %v", first, payload, errors.Is(err, os.ErrDeadlineExceeded))
	}, `0x0 "" true`, `0x8a "p" false`},

	{"time of `OnClose`", func(r *trial) string {
		during := make(chan string, 1)
		var c *caller
		r.start(moving{closed: func(movingSession) {
			c.SetReadDeadline(time.Now().Add(brief)) // and the close frame is not answered
			_, err := io.Copy(io.Discard, c.in)
			during <- fmt.Sprint("open: ", errors.Is(err, os.ErrDeadlineExceeded))
		}})
		c = r.call()
		c.meet().Close()
		return receive(r, "OnClose", during)
	}, "open: false", "open: true"},
}

// errorsOf are the names of errors.
func (r *trial) errorsOf(all ...error) string {
	names := make([]string, len(all))
	for i, err := range all {
		names[i] = r.name(err)
	}
	return strings.Join(names, ", ")
}

// arrived returns what the client has heard up to the publication of last.
func (c *caller) arrived() string {
	c.Helper()
	c.server.publish("t", []byte(`"last"`))
	var all []string
	for {
		switch got := c.hear(); got {
		case `{"topic":"t","data":"last"}`:
			return strings.Join(append(all, "end"), " ")
		default:
			all = append(all, got)
		}
	}
}

const (
	tooLong = 256
	notUTF8 = "\xff"
)

var publications = []difference{
	{"data that is not JSON", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		s := c.meet()
		got := r.errorsOf(r.server.publish("t", []byte("hello")), s.send("t", []byte("hello")))
		return got + ": " + c.arrived()
	}, "nil, nil: end", "wraps ErrInvalidData, wraps ErrInvalidData: end"},

	{"data that is not UTF-8", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		s := c.meet()
		got := r.errorsOf(r.server.publish("t", []byte(`"`+notUTF8+`"`)), s.send("t", []byte(`"`+notUTF8+`"`)))
		return got + ": " + c.arrived()
	}, "nil, nil: " + strings.Repeat(`{"topic":"t","data":"`+notUTF8+`"} `, 2) + "end", "wraps ErrInvalidData, wraps ErrInvalidData: end"},

	{"topics without a name, sessions that are nil", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		s := c.meet()
		return r.errorsOf(r.server.publish("", []byte("1")), r.server.subscribe(s, ""), r.server.unsubscribe(s, ""),
			r.server.subscribe(nil, "t"), r.server.unsubscribe(nil, "t")) + ": " + c.arrived()
	}, "nil, nil, nil, nil, nil: end",
		"wraps ErrInvalidTopic, wraps ErrInvalidTopic, wraps ErrInvalidTopic, live: nil session, live: nil session: end"},

	{"long topics", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		s := c.meet()
		topic := strings.Repeat("x", tooLong)
		got := r.errorsOf(r.server.subscribe(s, topic), r.server.publish(topic, []byte("1")), r.server.subscribe(s, topic[1:]))
		c.write(framed(aText, `{"topic":"`+topic+`","data":2}`), framed(aText, `{"topic":"t"}`))
		heard := ""
		for text := c.hear(); text != `{"topic":"t"}`; text = c.hear() {
			heard += text[len(`{"topic":"`)+tooLong:]
		}
		return got + ": " + heard
	}, `nil, nil, nil: ","data":1}","data":2}`, "wraps ErrInvalidTopic, wraps ErrInvalidTopic, nil: "},

	{"topics that are not UTF-8", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		s := c.meet()
		got := r.errorsOf(r.server.subscribe(s, notUTF8), r.server.publish(notUTF8, []byte("1")), s.send(notUTF8, nil))
		return got + ": " + c.arrived()
	}, `nil, nil, nil: {"topic":"\ufffd","data":1} {"topic":"\ufffd"} end`, "wraps ErrInvalidTopic, wraps ErrInvalidTopic, wraps ErrInvalidTopic: end"},

	{"topics of one session", func(r *trial) string {
		r.start(moving{})
		s := r.call().meet() // in topic t
		for i := range 10_000 {
			if err := r.server.subscribe(s, strconv.Itoa(i)); err != nil {
				return fmt.Sprint(i+1, " topics: ", r.name(err))
			}
		}
		return "more than 10,000"
	}, "more than 10,000", "10000 topics: wraps ErrTooManyTopics"},

	{"subscribing a session that has ended", func(r *trial) string {
		type value struct{ _ [1 << 10]byte }
		var of weak.Pointer[value]
		r.start(moving{auth: func(context.Context, *http.Request) (any, error) {
			v := new(value)
			of = weak.Make(v)
			return v, nil
		}})
		got := func() string {
			c := r.call()
			s := c.meet()
			c.Close()
			r.end()
			return r.name(r.server.subscribe(s, "t"))
		}()
		for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(brief / 10) {
			if runtime.GC(); of.Value() == nil {
				return got + ", freed"
			}
		}
		runtime.KeepAlive(r.server)
		return got + ", kept"
	}, "nil, kept", "ErrSessionClosed, freed"},

	{"bytes on the wire", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		c.meet()
		r.server.publish("t", []byte(`{ "text": "<b>&</b>" }`))
		return c.hear()
	}, `{"topic":"t","data":{"text":"\u003cb\u003e\u0026\u003c/b\u003e"}}`, `{"topic":"t","data":{ "text": "<b>&</b>" }}`},

	{"size of the queue", func(r *trial) string {
		r.start(moving{smallBuffers: true})
		s := r.call().meet()
		text := []byte(`"` + strings.Repeat("x", 50<<10) + `"`)
		first := s.send("t", []byte(`"`+strings.Repeat("x", 2<<20)+`"`))
		for range 200 { // the client reads nothing
			if err := s.send("t", text); err != nil {
				return r.errorsOf(first, err)
			}
		}
		return r.errorsOf(first, nil)
	}, "nil, nil", "nil, ErrQueueFull"},
}

var clientMessages = []difference{
	{"names of members", func(r *trial) string {
		return r.handedOver(framed(aText, `{"Topic":"a","DATA":1}`), framed(aText, `{"topic":"a","Topic":"b"}`))
	}, "(a: 1) (b: none)", "(: none) (a: none)"},

	{"`null`", func(r *trial) string {
		return r.handedOver(framed(aText, `null`), framed(aText, `{"topic":"a","topic":null}`))
	}, "(: none) (a: none)", "(: none)"},

	{"text that is not UTF-8", func(r *trial) string {
		topic, data := `{"topic":"`+notUTF8+`"}`, `{"topic":"a","data":"`+notUTF8+`"}`
		return r.handedOverEach(framed(aText, topic), framed(aText, data), framed(aBinary, topic)+framed(aBinary, data))
	}, "(\ufffd: none) / (a: \"?\") / (\ufffd: none) (a: \"?\")", "1007 / 1007 / "},

	{"fragmented messages", func(r *trial) string {
		return r.handedOver(framed(aBegin, `{"topic":`), framed(aPing, ""), framed(aLast, `"a"}`))
	}, "cut", "pong (a: none)"},

	{"broken frames", func(r *trial) string {
		return r.handedOverEach(
			framed(aText|0x40, `{"topic":"reserved bit"}`),
			framed(0x83, `{"topic":"opcode 3"}`),
			framed(0x8b, `{"topic":"opcode 11"}`),
			"\x81\xfe\x00\x02\x00\x00\x00\x00{}", // two bytes, and a length of 16 bits
			"\x81\x02{}",                         // no mask
			framed(aPing, strings.Repeat("p", 126)),
		)
	}, "(reserved bit: none) /  /  / (: none) / cut / cut", "1002 / 1002 / 1002 / 1002 / 1002 / 1002"},

	{"messages over `ReadLimit`", func(r *trial) string {
		part := strings.Repeat(" ", 600) // the limit is 1,000
		return r.handedOverEach(framed(aText, part+part), framed(aBegin, part)+framed(aLast, part))
	}, "cut / cut", "1009 / 1009"},

	{"many messages", func(r *trial) string {
		r.start(moving{message: func(_ context.Context, s movingSession, topic string, _ []byte) {
			if topic != "" {
				s.send(topic, nil)
			}
		}, onlyHere: func(o *live.Options) { o.InboundRate = 100 }}) // a tenth, so that the test needs a tenth of the messages
		many, large := r.call(), r.call()
		began := time.Now()
		slow := func(c *caller) bool {
			c.hear()
			return time.Since(began) > 2*time.Second
		}
		many.write(strings.Repeat(framed(aText, `{}`), 330), framed(aText, `{"topic":"last"}`))
		large.write(framed(aText, livetest.Fill(400<<10)))
		return fmt.Sprint("two seconds: ", slow(large), " ", slow(many))
	}, "two seconds: false false", "two seconds: true true"},
}

var endings = []difference{
	{"`Session.Close`", func(r *trial) string {
		r.start(moving{smallBuffers: true})
		c := r.call()
		s := c.meet()
		text := []byte(`"` + strings.Repeat("x", 10<<10) + `"`)
		for range 50 {
			s.send("t", text)
		}
		s.Close()
		heard, end := c.rest(livetest.Patience)
		return fmt.Sprint("all came: ", len(heard) == 50, ", ", end)
	}, "all came: false, cut", "all came: true, 1000 closed by the server"},

	{"a close frame from the client", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		c.meet()
		c.write(closeFrame(4000))
		_, end := c.rest(livetest.Patience)
		return end
	}, "cut", "4000 bye"},

	{"`OnClose` when the client closes", func(r *trial) string {
		return r.endsAfter(closeFrame(1000), closeFrame(1001), framed(aClose, ""), closeFrame(3000), closeFrame(4999), closeFrame(1011), closeFrame(1006), framed(aClose, "x"))
	}, strings.Repeat("nil / ", 7) + "nil", strings.Repeat("nil / ", 5) + `live: client closed with code 1011 "bye" / ` +
		"live: the client broke the protocol: a close frame with the code 1006 (close code 1002) / " +
		"live: the client broke the protocol: a close frame with half a code (close code 1002)"},

	{"`OnClose` when the connection is lost", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		c.meet()
		c.Close()
		return r.end()
	}, "io.EOF", "wraps io.EOF"},

	{"`OnClose` when the client breaks a rule", func(r *trial) string {
		return r.endsAfter(framed(aText, strings.Repeat(" ", 1001)), "\x81\x02{}")
	}, "ws: message too large / ws: protocol error",
		"ErrMessageTooBig / live: the client broke the protocol: a frame that is not masked (close code 1002)"},

	{"full queues", func(r *trial) string {
		r.start(moving{queue: 4, smallBuffers: true})
		c := r.call()
		s := c.meet()
		text := []byte(`"` + strings.Repeat("x", 100<<10) + `"`)
		var err error
		for err == nil {
			err = s.send("t", text)
		}
		got := r.errorsOf(err) + ", OnClose got " + r.end()
		_, end := c.rest(livetest.Patience)
		return got + ", " + end
	}, "ErrQueueFull, OnClose got ErrQueueFull, cut", "ErrQueueFull, OnClose got ErrQueueFull, 4100 queue full"},

	{"silent clients", func(r *trial) string {
		r.start(moving{onlyHere: func(o *live.Options) { o.PingInterval, o.PingTimeout = brief/3, brief/3 }})
		c := r.call()
		c.meet()
		_, end := c.rest(2 * soon)
		return end
	}, "still open", "4101 no answer to ping"},
}

var costs = []difference{
	{"goroutines of an idle session", func(r *trial) string {
		const sessions = 10
		label := "run " + r.Name()
		pprof.Do(context.Background(), pprof.Labels(label, ""), func(context.Context) { r.start(moving{}) })
		before := goroutinesOf(label)
		for range sessions {
			r.call()
		}
		for last := -1; ; time.Sleep(brief / 3) { // net/http's end
			now := goroutinesOf(label)
			if now == last {
				return fmt.Sprint((now - before + sessions/2) / sessions) // some others come and go
			}
			last = now
		}
	}, "2", "1"},

	{"logs", func(r *trial) string {
		var log livetest.LockedBuffer
		r.start(moving{
			message:  func(context.Context, movingSession, string, []byte) { panic("no") },
			onlyHere: func(o *live.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) },
		})
		c := r.call()
		c.write(framed(aText, `{}`))
		c.rest(soon)
		return fmt.Sprint("panic logged: ", strings.Contains(log.String(), "level=ERROR"))
	}, "panic logged: false", "panic logged: true"},
}

// goroutinesOf counts those with a label, which goroutines have of those that started them.
func goroutinesOf(label string) (n int) {
	var profile bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&profile, 1)
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, strconv.Quote(label)) {
			head, _, _ := strings.Cut(strings.TrimSpace(stack), " ")
			count, _ := strconv.Atoi(head)
			n += count
		}
	}
	return n
}

// sameness is what the page says, or lets one expect, to be the same.
var sameness = []struct {
	what string
	see  func(r *trial) string
	want string
}{
	{"frames", func(r *trial) string {
		r.start(moving{})
		c := r.call()
		s := c.meet()
		r.server.publish("t", nil)
		r.server.publish("t", []byte(`null`))
		r.server.publish("nobody has this", []byte(`1`))
		s.send("", nil)
		s.send("", []byte(`[1,"ü"]`))
		return c.arrived()
	}, `{"topic":"t"} {"topic":"t","data":null} {} {"data":[1,"ü"]} end`},

	{"messages", func(r *trial) string {
		return r.handedOver(
			framed(aText, `{"topic":"a","data":{"x":1}}`),
			framed(aText, ` { "data" : [1, 2] , "topic" : "\u0061\n" } `),
			framed(aText, `{"topic":"a","data":null,"more":{}}`),
			framed(aText, `{"topic":null,"data":1}`),
			framed(aText, `{"topic":"a","topic":"b","data":1,"data":2}`),
			framed(aText, `{"\u0074opic":"a"}`),
			framed(aText, `{"topic":"\ud800"}`),
			framed(aBinary, `{"topic":"binary"}`),
			framed(aText, ``), framed(aText, `[]`), framed(aText, `7`), framed(aText, `{"topic":7}`), framed(aText, `{`),
			framed(aPong, "nobody asked"),
			framed(aText, `{"data":`+strings.Repeat("[", 70)+strings.Repeat("]", 70)+`}`),
		)
	}, `(a: {"x":1}) (a` + "\n" + `: [1, 2]) (a: null) (: 1) (b: 2) (a: none) (` + "\ufffd" + `: none) (binary: none) (: ` +
		strings.Repeat("[", 70) + strings.Repeat("]", 70) + `)`},

	{"refusal by OnAuth", func(r *trial) string {
		r.start(moving{auth: func(context.Context, *http.Request) (any, error) { return nil, errors.New("secret") }})
		c := r.ask(opening{})
		return c.status + " " + c.body
	}, "401 authentication failed"},

	{"OnAuth without a connection to take over", func(r *trial) string {
		asked := 0
		r.start(moving{auth: func(context.Context, *http.Request) (any, error) { asked++; return nil, nil }})
		w := httptest.NewRecorder()
		r.server.Handler().ServeHTTP(w, livetest.UpgradeRequest())
		return fmt.Sprintf("%d, asked %d", w.Code, asked)
	}, "500, asked 1"},

	{"CheckOrigin goes before Origins", func(r *trial) string {
		r.start(moving{origins: []string{"https://a.example"}, checkOrigin: func(q *http.Request) bool { return q.Header.Get("Origin") == "null" }})
		return r.statuses(originLine("null"), originLine("https://a.example"))
	}, "101 403"},

	{"Origins with a star", func(r *trial) string {
		r.start(moving{origins: []string{"*"}})
		return r.statuses("", originLine("null"), originLine("https://a.example"))
	}, "101 101 101"},

	{"session", func(r *trial) string {
		r.start(moving{auth: func(context.Context, *http.Request) (any, error) { return 7, nil }})
		s := r.call().meet()
		open := fmt.Sprint(s.Value(), " ", s.IsClosed(), " ", s.CloseError(), " ", len(s.ID()), " ", strings.Trim(s.ID(), "0123456789abcdef"))
		return open + ", " + fmt.Sprint(s.Close(), " ", s.Close(), " ", s.IsClosed(), " ", r.name(s.send("t", nil)), " ", r.end())
	}, "7 false <nil> 32 , <nil> <nil> true ErrSessionClosed nil"},

	{"texts of errors", func(r *trial) string {
		if r.mizu {
			return fmt.Sprint(mizulive.ErrSessionClosed, "; ", mizulive.ErrQueueFull)
		}
		return fmt.Sprint(live.ErrSessionClosed, "; ", live.ErrQueueFull)
	}, "live: session closed; live: send queue full"},

	{"ReadLimit of 4 MiB", func(r *trial) string {
		r.start(moving{onlyHere: func(o *live.Options) { o.InboundRate = -1 }})
		c := r.call()
		c.write(framed(aText, livetest.Fill(4<<20)))
		n := len(c.hear())
		c.write(framed(aText, livetest.Fill(4<<20+1)))
		return fmt.Sprint(n, " ", r.end() != "nil")
	}, "4194304 true"},

	{"OnClose comes when the session is out of its topics, and may publish", func(r *trial) string {
		r.start(moving{closed: func(s movingSession) { r.server.publish("t", []byte(`"left"`)) }})
		c := r.call()
		c.meet()
		other := r.call()
		other.meet()
		c.write(closeFrame(1000))
		return other.hear() + " " + r.end()
	}, `{"topic":"t","data":"left"} nil`},

	{"callbacks of a session do not overlap", func(r *trial) string {
		var running, most atomic.Int32
		enter := func() {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(brief / 30)
			running.Add(-1)
		}
		r.start(moving{
			message: func(_ context.Context, s movingSession, topic string, _ []byte) {
				if enter(); topic == "close" {
					s.Close()
					enter()
				}
			},
			closed: func(movingSession) { enter() },
		})
		r.call().write(framed(aText, `{}`), framed(aText, `{}`), framed(aText, `{"topic":"close"}`))
		r.end()
		return fmt.Sprint(most.Load())
	}, "1"},
}
