package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/liveclient"
)

// output is what a command has printed. Commands print from several goroutines.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// runCommand runs a command line to its end.
func runCommand(t *testing.T, input string, env map[string]string, args ...string) (code int, out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), livetest.Patience)
	defer cancel()
	var o, e output
	code = run(ctx, args, strings.NewReader(input), &o, &e, func(name string) string { return env[name] })
	return code, o.String(), e.String()
}

// serve returns the address of a server that allows everything, with history and presence, to the user
// "ana" of the token "secret".
func serve(t *testing.T) (*live.Server, string) {
	opts := livetest.Permissive()
	topics := opts.Topics
	opts.Topics = func(topic string) live.TopicOptions {
		o := live.TopicOptions{}
		if topics != nil {
			o = topics(topic)
		}
		o.History, o.Presence = 100, live.PresenceVisible
		if topic == "table" {
			o.Keyed = true
		}
		if topic == "state" {
			o.Snapshot = func(context.Context, string) (any, error) { return []int{1, 2}, nil }
		}
		return o
	}
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		if c, err := r.Cookie("user"); err == nil {
			return c.Value, nil
		}
		if live.Token(r) != "secret" && r.Header.Get("X-Key") != "secret" {
			return nil, errors.New("no token")
		}
		return "ana", nil
	}
	opts.OnSubscribe = func(_ context.Context, _ *live.Session, topic string) error {
		switch topic {
		case "closed", "closed/2":
			return errors.New("closed")
		case "busy":
			return live.ErrUnavailable
		}
		return nil
	}
	publish := opts.OnPublish
	opts.OnPublish = func(ctx context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
		if topic == "closed/publish" {
			return nil, errors.New("closed")
		}
		return publish(ctx, s, topic, data)
	}
	opts.OnPresence = func(_ context.Context, _ *live.Session, _ string, info []byte) ([]byte, error) { return info, nil }
	server := livetest.NewServer(t, opts)
	return server, livetest.Serve(t, server.Handler()).HTTP()
}

func TestPubPrintsThePosition(t *testing.T) {
	server, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	code, out, errs := runCommand(t, "", env, "pub", "news", `{"text":"hi"}`)
	if code != 0 || errs != "" {
		t.Fatalf("%d %s", code, errs)
	}
	if _, err := live.ParsePosition(strings.TrimSpace(out)); err != nil {
		t.Errorf("%q is no position: %v", out, err)
	}
	if code, _, errs := runCommand(t, "1\n\n2\n", env, "pub", "news", "-"); code != 0 {
		t.Error(errs)
	}
	if code, _, errs := runCommand(t, "", env, "pub", "-text", "-id", "x", "news", "a text"); code != 0 {
		t.Error(errs)
	}
	runCommand(t, "", env, "pub", "news", "a text", "-text", "-id", "x")
	past, err := server.History(t.Context(), "news", 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range past {
		got = append(got, string(m.Data))
	}
	if want := `{"text":"hi"} 1 2 "a text"`; strings.Join(got, " ") != want {
		t.Errorf("published: %v, want %s", got, want)
	}
}

func TestSubPrintsWhatComes(t *testing.T) {
	server, url := serve(t)
	for _, data := range []string{"1", "2", "3"} {
		server.Publish("news", []byte(data))
	}
	at, err := server.Position(t.Context(), "news")
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	code, out, errs := runCommand(t, "", env, "sub", "-last", "2", "-n", "2", "-json", "news")
	if code != 0 || strings.Count(out, "\n") != 2 || !strings.Contains(out, `"data":2`) || !strings.Contains(out, `"at":"`+at.String()+`"`) {
		t.Errorf("%d %s%s", code, out, errs)
	}
	first, _, _ := strings.Cut(out, "\n")
	var line struct{ At string }
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatal(err)
	}
	code, out, errs = runCommand(t, "", env, "sub", "-since", line.At, "-n", "1", "news")
	if code != 0 || !strings.Contains(out, "news  "+at.String()+"  3  (earlier)") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	code, out, errs = runCommand(t, "", env, "sub", "-since", "elsewhere.7", "-last", "1", "-n", "1", "news")
	if code != 0 || !strings.Contains(out, "gap") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	code, out, errs = runCommand(t, "", env, "sub", "-n", "1", "state")
	if code != 0 || !strings.Contains(out, "state [1,2]") {
		t.Errorf("%d %s%s", code, out, errs)
	}
	server.Publish("table", []byte(`"v\u001b[2J"`), live.Key("k\x1b"))
	code, out, errs = runCommand(t, "", env, "sub", "-n", "1", "table")
	if code != 0 || !strings.Contains(out, "[k\uFFFD]") || strings.Contains(out, "\x1b") {
		t.Errorf("%d %q%s", code, out, errs)
	}
}

func TestHistoryAndWho(t *testing.T) {
	server, url := serve(t)
	for _, data := range []string{"1", "2", "3"} {
		server.Publish("news", []byte(data))
	}
	env := map[string]string{"LIVE_URL": url}
	code, out, errs := runCommand(t, "", env, "history", "news", "-n", "2", "-header", "X-Key: secret")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); code != 0 || len(lines) != 2 || !strings.HasSuffix(lines[0], "  2") {
		t.Errorf("%d %s%s", code, out, errs)
	}

	var watching, told output
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() { // ends with ctx
		ended <- run(ctx, []string{"sub", "-presence", "-url", url, "-cookie", "user=eve", "news"}, nil, &watching, &told, func(string) string { return "" })
	}()
	at := livetest.Endpoint{URL: "ws" + strings.TrimPrefix(url, "http")}
	livetest.Eventually(t, "who is there", func() bool { return strings.Contains(watching.String(), "news  0 present") })
	bob := livetest.Connect(t, at, livetest.Dialing{V1: true, Header: http.Header{"Cookie": {"user=bob"}}})
	bob.Attend().Greeted().Must(`{"op":"subscribe","id":1,"topic":"news","info":{"typing":true}}`)
	livetest.Eventually(t, "bob joins", func() bool { return strings.Contains(watching.String(), "bob joined") })
	code, out, errs = runCommand(t, "", env, "who", "news", "-token", "secret")
	if code != 0 || out != "bob  1 session {\"typing\":true}\n" || errs != "1 present\n" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	code, out, errs = runCommand(t, "", env, "who", "-json", "news", "-token", "secret")
	if code != 0 || out != `{"count":1,"members":[{"id":"bob","sessions":[{"typing":true}]}]}`+"\n" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("told to end, it returned %d: %s", code, told.String())
	}
}

func TestMistakesAreExplained(t *testing.T) {
	_, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "live sub"},
		{"help", 0, "live bench"},
		{"subscribe news", 2, `"subscribe" is no command`},
		{"sub", 2, "the arguments are: topic…"},
		{"sub -last 1001 news", 2, "from 0 to 1000"},
		{"sub -since x a b", 2, "one topic"},
		{"sub -nothing news", 2, "-nothing"},
		{"sub -h", 0, "-since"},
		{"pub news hello", 2, "-text"},
		{"pub news", 2, "topic data"},
		{"pub -id x news -", 2, "-id names one"},
		{"history -n 0 news", 2, "from 1"},
		{"bench -clients 0 news", 2, "1 or more"},
		{"bench -rate NaN news", 2, "-rate"},
		{"sub closed", 1, "forbidden"},
		{"sub -header broken news", 2, "Name: value"},
		{"who -token wrong news", 1, "401"},
		{"who -url http://127.0.0.1:1/live -timeout 300ms news", 1, "refused"},
		{"who -url ftp://x news", 1, "ftp"},
		{"who -url 127.0.0.1:8080/live news", 1, "such as wss://"},
		{"who -url http://127.0.0.1:1/live -timeout 300ms news", 1, "trying for 300ms"},
		{"who -timeout 0 news", 2, "-timeout is above 0"},
		{"pub news -5", 2, "pub news -- -5"},
	} {
		var args []string
		if test.args != "" {
			args = strings.Split(test.args, " ")
		}
		code, out, errs := runCommand(t, "", env, args...)
		if code != test.code || !strings.Contains(errs, test.want) || out != "" {
			t.Errorf("live %s: %d %q %q, want %d and %q", test.args, code, out, errs, test.code, test.want)
		}
	}
}

func TestBenchCountsAndMeasures(t *testing.T) {
	server, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	code, out, errs := runCommand(t, "", env, "bench", "-clients", "10", "-rate", "200", "-for", "300ms", "-json", "news")
	var r result
	if err := json.Unmarshal([]byte(out), &r); code != 0 || err != nil {
		t.Fatalf("%d %v %s", code, err, errs)
	}
	if r.Clients != 10 || r.Published == 0 || r.Delivered != 10*r.Published || r.Missing != 0 || r.Gaps != 0 || r.Repeated != 0 {
		t.Errorf("%+v", r)
	}
	if r.P50 <= 0 || r.P50 > r.P99 || r.P99 > r.Max || r.ConnectP99 <= 0 {
		t.Errorf("times: %+v", r)
	}
	livetest.Eventually(t, "the clients leave", func() bool { return server.Stats().Sessions == 0 })

	code, _, errs = runCommand(t, "", env, "bench", "-clients", "3", "closed")
	if code != 1 || !strings.Contains(errs, "forbidden") {
		t.Errorf("%d %s", code, errs)
	}
	code, out, errs = runCommand(t, "", env, "bench", "-clients", "2", "-rate", "0", "-for", "10ms", "news")
	if code != 0 || !strings.Contains(out, "from others 0") {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

func TestBenchCountsALostConnectionOnce(t *testing.T) {
	b := &bench{}
	tell := b.countConnection()
	for _, step := range []struct {
		state      liveclient.State
		open, lost int64
	}{
		{liveclient.Connecting, 0, 0}, {liveclient.Waiting, 0, 0}, {liveclient.Connecting, 0, 0}, {liveclient.Open, 1, 0},
		{liveclient.Waiting, 0, 1}, {liveclient.Connecting, 0, 1}, {liveclient.Waiting, 0, 1}, {liveclient.Connecting, 0, 1}, {liveclient.Open, 1, 1},
		{liveclient.Closed, 0, 1},
	} {
		tell(liveclient.Status{State: step.state})
		if open, lost := b.open.Load(), b.lost.Load(); open != step.open || lost != step.lost {
			t.Errorf("after state %v: %d are open and %d lost, want %d and %d", step.state, open, lost, step.open, step.lost)
		}
	}
	tell(liveclient.Status{State: liveclient.Open})
	tell(liveclient.Status{State: liveclient.Closed, Err: &liveclient.CloseError{Code: 4001}})
	if lost := b.lost.Load(); lost != 2 {
		t.Errorf("the server has ended the client: %d lost, want 2", lost)
	}
}

func TestHistogramIsWithinTwoPercent(t *testing.T) {
	var h histogram
	if h.share(0.99) != 0 {
		t.Error("an empty one has", h.share(0.99))
	}
	for range 10_000 {
		h.add(time.Millisecond)
	}
	h.add(1 << 40)
	if p := h.share(0.5).Seconds(); p < 0.00099 || p > 0.00103 {
		t.Errorf("half is %v", h.share(0.5))
	}
	if h.share(1) != 1<<40 {
		t.Errorf("the longest is %v", h.share(1))
	}
}

func TestRefusalsAreToldOnce(t *testing.T) {
	_, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	for args, times := range map[string]int{
		"sub closed":                                 1,
		"sub closed closed/2":                        2, // one for each topic
		"pub closed/publish 1":                       1,
		"bench -clients 5 closed":                    1, // whose text says that it stands for all
		"bench -clients 2 -for 100ms closed/publish": 1,
	} {
		code, out, errs := runCommand(t, "", env, strings.Split(args, " ")...)
		if code != 1 || strings.Count(errs, "forbidden") != times || out != "" {
			t.Errorf("live %s: %d %q %q, want one refusal in %d lines", args, code, out, errs, times)
		}
	}
}

// A subscription that the server cannot decide now goes on, and a person is told.
func TestErrorThatEndsNothingIsTold(t *testing.T) {
	_, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	ctx, stop := context.WithCancel(t.Context())
	var out, errs output
	ended := make(chan int)
	go func() { // ends with ctx
		ended <- run(ctx, []string{"sub", "busy"}, nil, &out, &errs, func(name string) string { return env[name] })
	}()
	livetest.Eventually(t, "the error", func() bool { return strings.Contains(errs.String(), "unavailable") })
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("%d %s", code, errs.String())
	}
}

// full is a standard output that takes nothing, as a disk that is full.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// Output that was not printed is an error, and a command whose output is lost does not go on.
func TestOutputThatIsLostIsAnError(t *testing.T) {
	server, url := serve(t)
	server.Publish("news", []byte("1"))
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	for _, args := range []string{
		"sub -last 1 news", "sub -json -last 1 news", "pub news 1", "pub news -", "history news", "history -json news", "who -json news",
		"bench -clients 1 -for 10ms news", "bench -json -clients 1 -for 10ms news",
	} {
		var errs output
		ctx, cancel := context.WithTimeout(t.Context(), livetest.Patience)
		code := run(ctx, strings.Split(args, " "), strings.NewReader("1\n2\n"), full{}, &errs, func(name string) string { return env[name] })
		if code != 1 || !strings.Contains(errs.String(), "cannot write to the standard output: no space left") || ctx.Err() != nil {
			t.Errorf("live %s: %d %q", args, code, errs.String())
		}
		cancel()
	}
}

// pub - waits for a person who types. It ends with a signal, and when the server ends the client.
func TestPubEndsWhileItWaitsForInput(t *testing.T) {
	server, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	for name, end := range map[string]func(stop func()){
		"signal": func(stop func()) { stop() },
		"server": func(func()) { server.DisconnectUser("ana", "signed out") },
	} {
		input, typing := io.Pipe()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var out, errs output
		ended := make(chan int)
		go func() { // ends with ctx, or the client
			ended <- run(ctx, []string{"pub", "news", "-"}, input, &out, &errs, func(name string) string { return env[name] })
		}()
		typing.Write([]byte("1\n"))
		livetest.Eventually(t, "the position", func() bool { return out.String() != "" })
		end(stop)
		code := livetest.Receive(t, ended)
		if want := map[string]int{"signal": 0, "server": 1}[name]; code != want || code == 1 && !strings.Contains(errs.String(), "signed out") {
			t.Errorf("%s: %d %q", name, code, errs.String())
		}
		typing.Close() // ends the goroutine that reads
	}
}

func TestLinesHaveABound(t *testing.T) {
	_, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	code, out, errs := runCommand(t, "1\n\""+strings.Repeat("x", 1<<20)+"\"\n"+strings.Repeat("x", maxLine)+"\n4\n", env, "pub", "news", "-")
	if code != 1 || strings.Count(out, "\n") != 2 || !strings.Contains(errs, "line 3 is longer than") {
		t.Errorf("%d %q %.200q", code, out, errs)
	}
}

// What was given for one command counts more than the environment.
func TestHeaderCountsMoreThanTheEnvironment(t *testing.T) {
	_, url := serve(t)
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "wrong"}
	if code, _, errs := runCommand(t, "", env, "who", "-header", "Authorization: Bearer secret", "news"); code != 0 {
		t.Errorf("%d %s", code, errs)
	}
}

// A server could break the lines of a terminal, or move its cursor, by what it writes into an answer.
func TestErrorsOfServersAreOneLine(t *testing.T) {
	at := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "go away\x1b[2J\nlive: all is well", http.StatusForbidden)
	}))
	code, _, errs := runCommand(t, "", map[string]string{"LIVE_URL": at.HTTP()}, "who", "news")
	if code != 1 || strings.Contains(errs, "\x1b") || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "go away") {
		t.Errorf("%d %q", code, errs)
	}
}

// What others have published cannot control the terminal either, and JSON stays the same JSON.
func TestPublicationsDoNotControlTheTerminal(t *testing.T) {
	server, url := serve(t)
	const text = "\u009b2J\x7f ünï 😀"
	if err := live.Publish(server, "news", text); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"LIVE_URL": url, "LIVE_TOKEN": "secret"}
	for _, flag := range []string{"-json", "-json=false"} {
		code, out, errs := runCommand(t, "", env, "history", flag, "news")
		if code != 0 || strings.ContainsAny(out, "\u009b\x7f") || !strings.Contains(out, "ünï 😀") {
			t.Errorf("%s: %d %q %s", flag, code, out, errs)
		}
		var got struct{ Data string }
		if flag == "-json" && (json.Unmarshal([]byte(out), &got) != nil || got.Data != text) {
			t.Errorf("the JSON is %s", out)
		}
	}
}
