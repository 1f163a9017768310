package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// block is an example of docs/protocol.md.
type block struct {
	client bool // sent by the client; else by the server
	text   string
	frame  livetest.Frame // of the server's
	op     struct {
		Op    string `json:"op"`
		ID    int    `json:"id"`
		Topic string `json:"topic"`
		Since string `json:"since"`
		Last  int    `json:"last"`
	}
	line int
}

func protocolPage(t testing.TB) string {
	t.Helper()
	page, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// pageBlocks returns the examples in the page's order.
func pageBlocks(t testing.TB) []block {
	t.Helper()
	page := protocolPage(t)
	fence := regexp.MustCompile("(?ms)^```json (client|server)\n(.*?)\n```$")
	var all []block
	for _, m := range fence.FindAllStringSubmatchIndex(page, -1) {
		b := block{
			client: page[m[2]:m[3]] == "client",
			text:   page[m[4]:m[5]],
			line:   1 + strings.Count(page[:m[0]], "\n"),
		}
		err := json.Unmarshal([]byte(b.text), &b.op)
		if !b.client && err == nil {
			b.frame, err = livetest.ParseFrame(b.text)
		}
		if err != nil {
			t.Fatalf("line %d of the page: %v", b.line, err)
		}
		all = append(all, b)
	}
	if n := strings.Count(page, "```json"); n != len(all) || n < 18 {
		t.Fatalf("%d examples found, and %d fences", len(all), n)
	}
	return all
}

// pageServer is what the page's examples talk to.
type pageServer struct {
	*live.Server
	client *livetest.Client
	at     livetest.Endpoint
	epoch  string
}

// The page's topics are at this position when its examples begin; the last two
// publications are its a and b.
const pageAt = 41

func newPageServer(t testing.TB, history int) *pageServer {
	opts := livetest.Permissive()
	opts.Topics = func(topic string) live.TopicOptions {
		o := live.TopicOptions{History: history, Keyed: topic == "cursors"}
		switch topic {
		case "room":
			o.Presence = live.PresenceVisible
		case "hall":
			o.Presence = live.PresenceCounted
		}
		if topic == "tasks" {
			o.Snapshot = func(context.Context, string) (any, error) { return []byte(`{"tasks":["buy milk"]}`), nil }
		}
		return o
	}
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		if user := r.Header.Get("User"); user != "" {
			return user, nil
		}
		return "anna", nil
	}
	opts.OnPresence = func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil }
	opts.PresenceGrace = -1
	opts.OnRequest = func(_ context.Context, _ *live.Session, topic string, data []byte) (any, error) {
		var question struct{ Prefix string }
		if json.Unmarshal(data, &question) != nil || topic != "rooms" || question.Prefix != "g" {
			return nil, errors.New("not what the page asks")
		}
		return []string{"general"}, nil
	}
	opts.OnSubscribe = func(_ context.Context, _ *live.Session, topic string) error {
		if topic == "private" {
			return errors.New("no")
		}
		return nil
	}
	p := &pageServer{Server: livetest.NewServer(t, opts)}
	p.at = livetest.Serve(t, p.Server.Handler())
	p.client = livetest.DialV1(t, p.at)
	livetest.PublishNumbers(t, p.Server, "chat:general", 1, pageAt-2)
	p.Publish("chat:general", []byte(`{"text":"a"}`))
	p.Publish("chat:general", []byte(`{"text":"b"}`))
	for range 5 {
		p.Publish("cursors", []byte(`[0,0]`), live.Key("ann"))
	}
	p.Publish("cursors", []byte(`[1,2]`), live.Key("bob"))
	p.Publish("cursors", []byte(`[3,4]`), live.Key("ann"))
	at := p.client.Must(livetest.SubscribeTo(1, "chat:general")).At
	p.epoch, _, _ = strings.Cut(at, ".")
	p.client.Must(livetest.UnsubscribeFrom(2, "chat:general"))
	return p
}

// answerTo sends an example, with positions of this server.
func (p *pageServer) answerTo(b block) livetest.Frame {
	if b.op.Op == "presence" {
		p.client.Must(livetest.SubscribeTo(99, b.op.Topic))
	}
	text := b.text
	if b.op.Since != "" {
		_, offset, _ := strings.Cut(b.op.Since, ".")
		text = strings.Replace(text, b.op.Since, p.epoch+"."+offset, 1)
	}
	p.client.Send(text)
	f, _ := p.client.Answer()
	return f
}

// Every example that a client sends is answered as the page says.
func TestExamplesOfTheProtocolPage(t *testing.T) {
	t.Parallel()
	all := pageBlocks(t)
	for i, b := range all {
		if !b.client {
			continue
		}
		var answers []block
		for _, next := range all[i+1:] {
			if next.client || next.frame.ID != b.op.ID || next.frame.Op != "reply" {
				break
			}
			answers = append(answers, next)
		}
		t.Run(fmt.Sprintf("line %d, %s", b.line, b.op.Op), func(t *testing.T) {
			for _, want := range answers {
				history := 100
				switch {
				case b.op.Op == "subscribe" && want.frame.At == "":
					history = 0
				case b.op.Op == "history", b.op.Since != "" && b.op.Last > 0:
					history = len(want.frame.Messages)
				}
				p := newPageServer(t, history)
				if b.op.Op == "history" {
					p.Publish(b.op.Topic, []byte(`{"text":"hello"}`))
				}
				livetest.Same(t, b.text, p.answerTo(b).Raw, want.text)
			}
			if len(answers) > 0 {
				return
			}
			p := newPageServer(t, 100)
			switch {
			case b.op.Op == "ping": // its answer has no id
				p.client.Send(b.text)
				livetest.Same(t, b.text, p.client.Next().Raw, `{"op":"pong"}`)
			case b.op.Op == "pong":
				p.client.Send(b.text)
				if got := p.client.Settled(); len(got) != 0 {
					t.Errorf("pong was answered by %s", got[0].Raw)
				}
			case b.op.Last > 0:
				f := p.answerTo(b)
				if n := len(f.Messages); f.ID != b.op.ID || n != min(b.op.Last, pageAt) {
					t.Errorf("%d messages: %s", n, f.Raw)
				}
			default:
				t.Error("the page shows no answer")
			}
		})
	}
}

// exampleOf makes a server send what the page shows without an operation before it.
var exampleOf = map[string]func(t *testing.T, b block) string{
	"hello": func(t *testing.T, b block) string {
		return newPageServer(t, 0).client.Hello.Raw
	},
	"error": func(t *testing.T, b block) string {
		return newPageServer(t, 0).client.Do(livetest.SubscribeTo(b.frame.ID, "private")).Raw
	},
	"": func(t *testing.T, b block) string { // a publication
		p := newPageServer(t, 100)
		p.client.Must(livetest.SubscribeTo(1, b.frame.Topic))
		if b.frame.Removed {
			p.Remove(b.frame.Topic, b.frame.Key)
		} else {
			p.Publish(b.frame.Topic, b.frame.Data)
		}
		return p.client.Next().Raw
	},
	"gap": func(t *testing.T, b block) string {
		opts := livetest.Permissive()
		opts.QueueSize = 1
		opts.Topics = livetest.Keeping(b.frame.Topic, live.TopicOptions{Overflow: live.OverflowLatest})
		server := livetest.NewServer(t, opts)
		c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
		c.Must(livetest.SubscribeTo(1, b.frame.Topic))
		defer livetest.Hammer(server, b.frame.Topic)()
		for {
			if f := c.Next(); f.Op == "gap" {
				return f.Raw
			}
		}
	},
	"presence": func(t *testing.T, b block) string {
		p := newPageServer(t, 0)
		connect := func(user string) *livetest.Client {
			c := livetest.Connect(t, p.at, livetest.Dialing{V1: true, Header: http.Header{"User": {user}}}).Attend().Greeted()
			c.Must(livetest.SubscribeTo(1, b.frame.Topic))
			return c
		}
		told := make(chan live.PresenceChange, 10)
		if _, err := p.ListenPresence(b.frame.Topic, func(c live.PresenceChange) { told <- c }); err != nil {
			t.Fatal(err)
		}
		typing := connect("anna")
		typing.Send(livetest.Operation("present", 2, b.frame.Topic, "info", map[string]bool{"typing": true}))
		typing.Answer()
		present := 2 // sessions
		if b.frame.Count == nil {
			connect("anna")
			present++
		}
		bert := connect("bert")
		for sessions := map[string]int{}; sumOf(sessions) < present; { // else some come after the state
			change := livetest.Receive(t, told)
			for _, m := range append(change.Joined, change.Changed...) {
				sessions[m.ID] = len(m.Sessions)
			}
		}
		p.client.Send(livetest.Operation("subscribe", 3, b.frame.Topic, "unseen", true))
		p.client.Answer()
		state := p.client.Next()
		if b.frame.Joined == nil {
			return state.Raw
		}
		typing.Drop()
		bert.Drop()
		connect("carl")
		all := livetest.Frame{} // what comes, as if it were in one frame
		for len(all.Joined)+len(all.Changed)+len(all.Left) < 3 {
			f := p.client.Next()
			all.Joined, all.Changed, all.Left = append(all.Joined, f.Joined...), append(all.Changed, f.Changed...), append(all.Left, f.Left...)
		}
		text, _ := json.Marshal(map[string]any{"op": "presence", "topic": "room", "joined": all.Joined, "changed": all.Changed, "left": all.Left})
		return string(text)
	},
	"ping": func(t *testing.T, b block) string {
		opts := livetest.Permissive()
		opts.PingInterval = 50 * time.Millisecond
		at := livetest.Serve(t, livetest.NewServer(t, opts).Handler())
		return livetest.Connect(t, at, livetest.Dialing{V1: true, Mute: true}).Greeted().Read()
	},
	"pong": func(t *testing.T, _ block) string {
		c := newPageServer(t, 0).client
		c.Send(`{"op":"ping"}`)
		return c.Next().Raw
	},
	"drain": func(t *testing.T, b block) string {
		server := live.New(livetest.Permissive())
		c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
		go server.Shutdown(context.Background())
		f := c.Next()
		return strings.Replace(f.Raw, fmt.Sprint(f.Within), fmt.Sprint(b.frame.Within), 1) // how long is the server's to say
	},
}

func TestWhatTheServerSendsIsOnTheProtocolPage(t *testing.T) {
	t.Parallel()
	shown := make(map[string]bool)
	for _, b := range pageBlocks(t) {
		if b.client || b.frame.Op == "reply" {
			continue
		}
		shown[b.frame.Op] = true
		produce := exampleOf[b.frame.Op]
		if produce == nil {
			t.Errorf("line %d: nobody sends %s", b.line, b.text)
			continue
		}
		t.Run(fmt.Sprintf("line %d, %s", b.line, b.frame.Op), func(t *testing.T) {
			livetest.Same(t, "example", produce(t, b), b.text)
		})
	}
	if got, want := slices.Sorted(maps.Keys(shown)), slices.Sorted(maps.Keys(exampleOf)); !slices.Equal(got, want) {
		t.Errorf("the page shows %q, the server sends %q", got, want)
	}
}

// pageParts returns the examples of answers in parts. The server makes those of large
// answers only, so that it is not asked for them.
func pageParts(t testing.TB) [][]livetest.Frame {
	t.Helper()
	var all [][]livetest.Frame
	for _, m := range regexp.MustCompile("(?ms)^```\n(\\{.*?)\n```$").FindAllStringSubmatch(protocolPage(t), -1) {
		var frames []livetest.Frame
		for line := range strings.Lines(m[1]) {
			f, err := livetest.ParseFrame(strings.TrimSpace(line))
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			frames = append(frames, f)
		}
		all = append(all, frames)
	}
	return all
}

// An answer that the page shows in parts is, put together, what it shows in one frame
// before.
func TestPartsOnTheProtocolPage(t *testing.T) {
	t.Parallel()
	inOne := make(map[int]livetest.Frame)
	for _, b := range pageBlocks(t) {
		if !b.client {
			inOne[b.frame.ID] = b.frame
		}
	}
	shown := make(map[string]bool)
	for _, parts := range pageParts(t) {
		first, last := parts[0], parts[len(parts)-1]
		want := inOne[first.ID]
		var text string
		var messages []livetest.Past
		for i, f := range parts {
			if f.Text != nil {
				text += *f.Text
			}
			messages = append(messages, f.Messages...)
			if f.IsPublication() && f.WasRecovered() {
				messages = append(messages, livetest.Past{Data: f.Data, At: f.At})
			}
			if first.Messages != nil && first.More && (f.ID != first.ID || f.More != (i < len(parts)-1)) {
				t.Errorf("part %d of a history is %s", i, f.Raw)
			}
		}
		switch {
		case slices.ContainsFunc(parts, func(f livetest.Frame) bool { return f.Op == "presence" }):
			shown["presence"] = true
			if !first.More || first.Continued || last.More || !last.Continued {
				t.Errorf("%s … %s is no state in parts", first.Raw, last.Raw)
			}
		case first.Op == "part":
			shown["request"] = true
			if last.Op != "reply" || last.ID != first.ID || text != string(want.Data) {
				t.Errorf("the answer in parts is %s, in one frame %s", text, want.Data)
			}
		case first.More:
			shown["history"] = true
			newest := messages[max(len(messages)-len(want.Messages), 0):]
			livetest.Check(t, "the newest of the history", listOf(newest), listOf(want.Messages))
		default:
			shown["subscribe"] = true
			if !first.WasRecovered() || !last.IsPublication() || last.WasRecovered() {
				t.Errorf("%s … %s is no answer to a subscribe, and then what is new", first.Raw, last.Raw)
			}
			livetest.Check(t, "what was missed", listOf(messages), listOf(want.Messages))
		}
	}
	if len(shown) != 4 {
		t.Errorf("the page shows parts of %v, want those of a request, a history, a subscribe and presence", shown)
	}
}

// table returns the first cells of a table of the page.
func table(t testing.TB, heading string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(protocolPage(t), heading)
	if !ok {
		t.Fatalf("the page has no %q", heading)
	}
	_, rest, _ = strings.Cut(rest, "|---|")
	var rows []string
	for line := range strings.SplitSeq(rest, "\n") {
		if strings.HasPrefix(line, "| ") {
			rows = append(rows, line)
		} else if len(rows) > 0 {
			break
		}
	}
	return rows
}

// closeConstants returns the exported close codes of package live.
func closeConstants(t testing.TB) map[string]int {
	t.Helper()
	files, err := filepath.Glob("../live/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("package live is not there: %v", err)
	}
	constants := make(map[string]int)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.CONST {
				continue
			}
			for _, spec := range gen.Specs {
				value := spec.(*ast.ValueSpec)
				for i, ident := range value.Names {
					if literal, ok := value.Values, ident.IsExported() && strings.HasPrefix(ident.Name, "Close"); ok {
						code, err := strconv.Atoi(literal[i].(*ast.BasicLit).Value)
						if err != nil {
							t.Fatal(err)
						}
						constants[ident.Name] = code
					}
				}
			}
		}
	}
	return constants
}

// Codes of the page that this version of the server never closes with.
var reservedCodes = []int{
	1001, // what a browser sends when its page is left, and the server at most repeats
	1006, // what a client makes of a connection that ends without a code
	1013,
}

// Codes of the page that the server closes with, and package live has no name for: they
// are RFC 6455's and tell a program nothing but that its client is broken.
var unnamedCodes = []int{
	1002,
	1007,
}

func TestCloseCodesOfTheProtocolPage(t *testing.T) {
	t.Parallel()
	constants := closeConstants(t)
	if constants["CloseProtocol"] != live.CloseProtocol || len(constants) < 9 {
		t.Fatalf("the constants are %v", constants)
	}
	ranges := regexp.MustCompile(`\d{4}–\d{4}`)
	number := regexp.MustCompile(`\b\d{4}\b`)
	page := make(map[int]bool)
	for _, row := range table(t, "## Close codes") {
		cells := strings.Split(row, "|")
		for _, text := range number.FindAllString(ranges.ReplaceAllString(cells[1]+cells[2], ""), -1) {
			if strings.Contains(cells[2], text+" ms") || strings.Contains(cells[2], "RFC "+text) {
				continue // not a code
			}
			code, _ := strconv.Atoi(text)
			page[code] = true
		}
	}
	for name, code := range constants {
		if !page[code] {
			t.Errorf("the page does not have %s, %d", name, code)
		}
	}
	for _, code := range unnamedCodes {
		if !page[code] {
			t.Errorf("the page does not have %d", code)
		}
	}
	for code := range page {
		known := slices.Contains(slices.Collect(maps.Values(constants)), code) || slices.Contains(unnamedCodes, code)
		if known == slices.Contains(reservedCodes, code) {
			t.Errorf("the page has %d; it is a constant: %t; it is reserved: %t", code, known, !known)
		}
	}
}

// Each code of the page is sent for what the page says, and no other.
func TestErrorCodesOfTheProtocolPage(t *testing.T) {
	t.Parallel()
	broker := &brokenBroker{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	opts := livetest.Permissive()
	opts.Broker, opts.MaxTopics = broker, 1
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return nil, errors.New("no") }
	keeping := opts.Topics
	opts.Topics = func(topic string) live.TopicOptions {
		o := keeping(topic)
		if topic == "limited" {
			o.PublishRate = 1
		}
		return o
	}
	opts.OnPublish = func(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
		if topic == "limited" {
			return data, nil
		}
		return nil, errors.New("no")
	}
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	c.Must(livetest.SubscribeTo(1, "t"))
	c.Must(`{"op":"publish","id":1,"topic":"limited","data":1}`)
	sent := map[string]bool{}
	for _, op := range []string{
		`{"op":"subscribe","id":1}`,
		`{"op":"nonsense","id":1}`,
		`{"op":"publish","id":1,"topic":"t","data":1}`,
		`{"op":"publish","id":1,"topic":"limited","data":1}`,
		`{"op":"subscribe","id":1,"topic":""}`,
		`{"op":"subscribe","id":1,"topic":"another"}`,
		`{"op":"history","id":1,"topic":"t","limit":1}`,
		`{"op":"request","id":1,"topic":"t"}`,
		`{"op":"presence","id":1,"topic":"t"}`,
	} {
		sent[c.Do(op).Code] = true
	}
	broker.fail(context.DeadlineExceeded)
	sent[c.Do(`{"op":"history","id":1,"topic":"chat","limit":1}`).Code] = true
	for _, err := range []error{live.ErrTooLarge, live.ErrTooManyKeys} {
		broker.fail(err)
		sent[c.Do(`{"op":"history","id":1,"topic":"chat","limit":1}`).Code] = true
	}

	listed := map[string]bool{}
	for _, row := range table(t, "### error") {
		listed[strings.Trim(strings.Split(row, "|")[1], " `")] = true
	}
	if got, want := slices.Sorted(maps.Keys(sent)), slices.Sorted(maps.Keys(listed)); !slices.Equal(got, want) {
		t.Errorf("the server sends %v\nthe page has %v", got, want)
	}
}

// listOf is what comparisons show of publications: their data and offsets.
func listOf(messages []livetest.Past) string {
	all := make([]string, len(messages))
	for i, m := range messages {
		_, offset := livetest.OffsetOf(m.At)
		all[i] = fmt.Sprintf(`[%s,%d]`, m.Data, offset)
	}
	return strings.Join(all, ",")
}

func sumOf(counts map[string]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}
