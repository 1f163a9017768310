//go:build unix

package live_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// process is a process of its own that a test starts, freezes and kills.
type process struct {
	*exec.Cmd
	lines *bufio.Scanner // what it prints
}

// start runs a test of this package in a process of its own, with a value in LIVE_PROCESS. It is killed when
// the test ends.
func start(t *testing.T, test, value string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.timeout=2m")}
	p.Env = append(os.Environ(), "LIVE_PROCESS="+value)
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
	})
	p.lines = bufio.NewScanner(out)
	return p
}

// says waits for a line that begins with a word, and returns what follows.
func (p *process) says(t *testing.T, word string) string {
	t.Helper()
	found := make(chan string, 1)
	go func() { // ends with the process
		for p.lines.Scan() {
			if rest, ok := strings.CutPrefix(p.lines.Text(), word+" "); ok {
				found <- rest
				return
			}
		}
	}()
	return livetest.Receive(t, found)
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// quickPings finds a client that does not answer within five seconds. A client on a busy machine needs up to a second or two.
var quickPings = live.Options{PingInterval: 500 * time.Millisecond, PingTimeout: 4500 * time.Millisecond}

// TestServerProcess is no test: it is the server of the tests below. It publishes a number every ten
// milliseconds on topic t, and answers requests with its figures. LIVE_PROCESS is how many files it may have
// open beside those that it has when it begins; 0: as many as it likes.
func TestServerProcess(t *testing.T) {
	more, err := strconv.Atoi(os.Getenv("LIVE_PROCESS"))
	if err != nil {
		t.Skip("started by other tests")
	}
	opts := quickPings
	opts.Topics = func(string) live.TopicOptions { return live.TopicOptions{History: 10_000} }
	var server *live.Server
	opts.OnRequest = func(context.Context, *live.Session, string, []byte) (any, error) { return server.Stats(), nil }
	server = live.New(livetest.Open(opts))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if more > 0 {
		limitFiles(t, more)
	}
	go http.Serve(listener, server.Handler()) // ends with the process
	fmt.Println("listens", listener.Addr())
	for n := 1; ; n++ {
		server.Publish("t", []byte(livetest.Padded(n, 50)))
		time.Sleep(10 * time.Millisecond)
	}
}

// limitFiles allows so many files more than are open.
func limitFiles(t *testing.T, more int) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = uint64(int(null.Fd()) + more)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
}

// numbered is a client of TestServerProcess that must get every number.
type numbered struct {
	*livetest.Client
	newest int
}

// joins connects a client that gets all numbers from now on.
func joins(t *testing.T, at livetest.Endpoint) *numbered {
	t.Helper()
	c := &numbered{Client: livetest.DialV1(t, at)}
	c.Must(livetest.SubscribeTo(1, "t"))
	return c
}

// reaches reads up to a number, and returns the newest that has come.
func (c *numbered) reaches(t *testing.T, want int) int {
	t.Helper()
	for c.newest < want || c.Waiting() > 0 {
		f := c.Next()
		n := livetest.NumberOf(f.Data)
		if !f.IsPublication() || c.newest > 0 && n != c.newest+1 {
			t.Fatalf("after %d came %s", c.newest, f)
		}
		c.newest = n
	}
	return c.newest
}

// figures asks TestServerProcess for its Stats.
func (c *numbered) figures(t *testing.T) (st live.Stats) {
	t.Helper()
	c.Send(livetest.Operation("request", 7, "t", "data", nil))
	f, before := c.Reply(7)
	if n := len(before); n > 0 {
		c.newest = livetest.NumberOf(before[n-1].Data)
	}
	if err := json.Unmarshal(f.Data, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// A server's process stands still for longer than a client may be silent. Nobody is taken for dead, and
// nothing is lost.
func TestServerThatStoodStillLosesNobody(t *testing.T) {
	t.Parallel()
	p := start(t, "TestServerProcess", "0")
	at := livetest.Endpoint{URL: "ws://" + p.says(t, "listens")}
	clients := make([]*numbered, 30)
	for i := range clients {
		clients[i] = joins(t, at)
		clients[i].reaches(t, 1)
	}
	p.signal(t, syscall.SIGSTOP)
	time.Sleep(quickPings.PingInterval + quickPings.PingTimeout + time.Second)
	p.signal(t, syscall.SIGCONT)
	for _, c := range clients {
		c.reaches(t, c.newest+100)
	}
	if st := clients[0].figures(t); st.Sessions != len(clients) || st.PingTimeouts > 0 || st.Gaps > 0 {
		t.Errorf("%+v", st)
	}
}

// filling is how many publications of 4 KB TestStalledProcess makes: more than fit in any socket.
const filling = 2000

// stalledTimeout is the WriteTimeout of TestStalledProcess.
const stalledTimeout = 4 * time.Second

// servings are the kinds of connections that are written to in different ways.
var servings = map[string]livetest.Serving{
	"plain": livetest.ServeSmall, "TLS": livetest.ServeSmallTLS, "opaque": livetest.ServeOpaque,
}

// TestStalledProcess is no test: it is the server of the test below. When it is asked to, it publishes
// more than a client that does not read can take. LIVE_PROCESS says over which kind of connections.
func TestStalledProcess(t *testing.T) {
	kind, ok := strings.CutPrefix(os.Getenv("LIVE_PROCESS"), "stalled ")
	if !ok {
		t.Skip("started by another test")
	}
	var server *live.Server
	server = live.New(livetest.Open(live.Options{
		Logger: livetest.Quiet, WriteTimeout: stalledTimeout, PingInterval: -1,
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 2 * filling} },
		OnRequest: func(context.Context, *live.Session, string, []byte) (any, error) {
			for n := 1; n <= filling; n++ {
				server.Publish("t", []byte(livetest.Padded(n, 4<<10)))
			}
			return server.Stats(), nil
		},
	}))
	fmt.Println("listens", servings[kind](t, server.Handler()).URL)
	select {} // until it is killed
}

// A server's process stands still for longer than WriteTimeout, while a write waits for a client. The
// client is not cut for that, whatever the connection.
func TestServerThatStoodStillGoesOnWriting(t *testing.T) {
	t.Parallel()
	livetest.AtOnce(t, func(g *livetest.Together) {
		for kind := range servings {
			g.Run(kind, func(t *testing.T) {
				p := start(t, "TestStalledProcess", "stalled "+kind)
				at := livetest.Endpoint{URL: p.says(t, "listens")}
				if strings.HasPrefix(at.URL, "wss:") {
					at.TLS = &tls.Config{InsecureSkipVerify: true}
				}
				line := livetest.Through(t, at)
				c := &numbered{Client: livetest.DialV1(t, line.Endpoint)}
				c.Must(livetest.SubscribeTo(1, "t"))
				line.Stall()
				other := livetest.DialV1(t, at)
				other.Must(livetest.Operation("request", 1, "fill", "data", nil))
				time.Sleep(stalledTimeout * 3 / 10) // a write is checked four times in its timeout; one check was made
				p.signal(t, syscall.SIGSTOP)
				time.Sleep(stalledTimeout * 3 / 2)
				p.signal(t, syscall.SIGCONT)
				line.Resume()
				c.reaches(t, filling)
			})
		}
	})
}

// TestClientProcess is no test: it is a client of the test below. LIVE_PROCESS is the URL of its server.
func TestClientProcess(t *testing.T) {
	url := os.Getenv("LIVE_PROCESS")
	if !strings.HasPrefix(url, "ws:") {
		t.Skip("started by another test")
	}
	c := livetest.DialV1(t, livetest.Endpoint{URL: url})
	c.Must(livetest.SubscribeTo(1, "quiet"))
	fmt.Println("listens now")
	_, code := c.Rest()
	fmt.Println("ended", code)
}

// A client's process stands still. The server finds that in time, and its other clients do not notice. The topic of
// the client is quiet: its kernel would acknowledge publications, which counts as a sign of life until its buffer is full.
func TestClientThatStandsStillIsFound(t *testing.T) {
	t.Parallel()
	h := livetest.Hosting{}.Start(t, livetest.Open(quickPings))
	other := livetest.DialV1(t, h.Endpoint)
	other.Must(livetest.SubscribeTo(1, "t"))
	p := start(t, "TestClientProcess", h.URL)
	p.says(t, "listens")
	if st := h.Stats(); st.Sessions != 2 {
		t.Fatalf("%+v", st)
	}
	p.signal(t, syscall.SIGSTOP)
	for n := 1; h.Stats().Sessions == 2; n++ {
		h.PublishNumbers(t, "t", n, n, 50)
		other.ExpectNumbers("t", n, n)
	}
	if st := h.Stats(); st.PingTimeouts != 1 || st.Subscriptions != 1 {
		t.Errorf("%+v", st)
	}
	p.signal(t, syscall.SIGCONT)
	p.says(t, "ended")
}

// A server has no file descriptors left. Its clients do not notice, and those that wait are served
// when some are free again.
func TestServerWithoutFileDescriptors(t *testing.T) {
	t.Parallel()
	const free = 20
	p := start(t, "TestServerProcess", strconv.Itoa(free))
	at := livetest.Endpoint{URL: "ws://" + p.says(t, "listens")}
	first := joins(t, at)
	idle := make([]net.Conn, 2*free) // more than the server can accept
	for i := range idle {
		conn, err := net.Dial("tcp", at.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle[i] = conn
	}
	first.reaches(t, 10)
	first.reaches(t, first.newest+100)
	late := make(chan *numbered, 1)
	go func() { late <- joins(t, at) }() // ends when some descriptors are free, or the test fails
	first.reaches(t, first.newest+50)
	select {
	case <-late:
		t.Error("the server had descriptors left: the test tests nothing")
	default:
	}
	for _, conn := range idle {
		conn.Close()
	}
	c := livetest.Receive(t, late)
	c.reaches(t, c.newest+1)
	c.reaches(t, c.newest+100)
	first.reaches(t, c.newest)
	if st := c.figures(t); st.Sessions != 2 || st.Gaps > 0 || st.PingTimeouts > 0 {
		t.Errorf("%+v", st)
	}
}
