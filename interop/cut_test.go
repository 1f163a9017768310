package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// scope is a test of which a part can end sooner.
type scope struct {
	testing.TB
	cleanups []func()
}

func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) end() {
	for _, f := range s.cleanups {
		f()
	}
}

// account is what a client has had of one topic. Publications are numbered from 1, and
// so are positions in a history.
type account struct {
	since     string
	seen      int  // the newest number
	answering bool // what was missed may still come
	gaps      int
}

// heard takes a frame with the next publication of a topic. What was missed comes before
// what is new.
func (a *account) heard(n int, f livetest.Frame) error {
	if f.WasRecovered() && !a.answering {
		return fmt.Errorf("after %d came %s", a.seen, f.Raw)
	}
	a.answering = f.WasRecovered()
	return a.publication(n, f.At)
}

// lost takes the word that publications were lost after the reply. It is true if the
// history has dropped all up to the gap's position; newest is the newest number that may be
// published.
func (a *account) lost(f livetest.Frame, newest, history int) error {
	_, offset := livetest.OffsetOf(f.At)
	if offset <= a.seen || newest < offset+history {
		return fmt.Errorf("%s came after %d; %d are published, of which the history has %d", f.Raw, a.seen, newest, history)
	}
	a.seen, a.since = offset, f.At
	a.gaps++
	return nil
}

// publication takes the next publication of a topic.
func (a *account) publication(n int, at string) error {
	if n != a.seen+1 {
		return fmt.Errorf("%d came after %d", n, a.seen)
	}
	if _, offset := livetest.OffsetOf(at); offset != n {
		return fmt.Errorf("%d has the position %s", n, at)
	}
	a.seen, a.since = n, at
	return nil
}

// subscribed takes the reply to a subscribe.
func (a *account) subscribed(f livetest.Frame) error {
	_, now := livetest.OffsetOf(f.At)
	a.answering = f.WasRecovered()
	switch {
	case a.since == "":
		a.seen = now
	case f.WasRecovered():
		for _, m := range f.Messages {
			n, err := strconv.Atoi(string(m.Data))
			if err == nil {
				err = a.publication(n, m.At)
			}
			if err != nil {
				return fmt.Errorf("resumed since %s: %w", a.since, err)
			}
		}
	case f.Recovered == nil:
		return fmt.Errorf("resumed since %s: %s", a.since, f.Raw)
	default:
		if now <= a.seen {
			return fmt.Errorf("a gap after %d, where nothing was missed: %s", a.seen, f.Raw)
		}
		a.gaps++
		a.seen = now
	}
	if now != a.seen {
		return fmt.Errorf("the reply is at %s, its last message at %d", f.At, a.seen)
	}
	a.since = f.At
	return nil
}

// roamer is a client whose line is cut again and again.
type roamer struct {
	t        testing.TB
	at       livetest.Endpoint
	topics   []string
	accounts map[string]*account
	up, down time.Duration // up to three times as long each
	calm     chan struct{} // closed when no line is cut any more
	done     func(*roamer) bool
	take     func(*roamer, livetest.Frame) error // a publication, or a gap
	answered func(*roamer, *account, livetest.Frame) error
	dials    atomic.Int64
}

// roam goes on until the client has had everything.
func (r *roamer) roam() {
	deadline := time.Now().Add(3 * livetest.Patience)
	for !r.done(r) {
		if err := r.visit(); err != nil {
			r.t.Error(err)
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("after %d dials: %+v", r.dials.Load(), r.accounts)
			return
		}
		if !r.done(r) {
			time.Sleep(r.between(r.down))
		}
	}
}

func (r *roamer) between(d time.Duration) time.Duration { return d + rand.N(2*d) }

// visit is one connection, from its beginning until it is cut. An error is the
// server's fault.
func (r *roamer) visit() error {
	s := &scope{TB: r.t}
	defer s.end()
	l := livetest.Through(s, r.at)
	cut := time.AfterFunc(r.between(r.up), func() {
		select {
		case <-r.calm:
		default:
			r.cut(l)
		}
	})
	defer cut.Stop()
	c, err := livetest.Try(s, l.Endpoint, livetest.Dialing{V1: true})
	if err != nil {
		return nil // cut
	}
	defer c.Drop()
	r.dials.Add(1)
	ops := make([]string, len(r.topics))
	for i, topic := range r.topics {
		ops[i] = livetest.SubscribeTo(i+1, topic)
		if a := r.accounts[topic]; a.since != "" {
			ops[i] = livetest.ResumeFrom(i+1, topic, a.since)
		}
	}
	if c.Say(livetest.InOneFrame(ops...)) != nil {
		return nil
	}
	for !r.done(r) {
		c.Conn.SetReadDeadline(time.Now().Add(livetest.Patience))
		f, err := c.ReadFrame()
		switch {
		case f.CloseCode() != 0:
			return fmt.Errorf("closed: %s", f)
		case err != nil && f.Raw != "":
			return err
		case err != nil:
			return nil
		}
		switch f.Op {
		case "hello":
		case "ping":
			c.Say(`{"op":"pong"}`)
		case "reply":
			topic := r.topics[f.ID-1]
			err = r.answered(r, r.accounts[topic], f)
		case "", "gap":
			err = r.take(r, f)
		default:
			err = fmt.Errorf("got %s", f.Raw)
		}
		if err != nil {
			return fmt.Errorf("topic %s, %w", f.Topic, err)
		}
	}
	return nil
}

// cut ends a line in one of the ways in which lines end, perhaps in the middle of a
// frame.
func (r *roamer) cut(l *livetest.Relay) {
	switch rand.IntN(4) {
	case 0:
		l.HangUp()
	case 1:
		l.Reset()
	case 2:
		l.CutDown(rand.IntN(100), l.HangUp)
	case 3:
		l.CutDown(rand.IntN(100), l.Reset)
	}
}

// A thousand clients on lines that are cut again and again, while numbers are
// published. With a history that is long enough each has every number, once and in
// order. With one that is not each hole is announced where it is, and there is none
// where none is announced.
func TestThousandClientsOnLinesThatAreCut(t *testing.T) {
	for _, test := range []struct {
		name     string
		history  int
		complete bool
	}{
		{"all is kept", 1000, true},
		{"little is kept", 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			const clients = 1000
			const atLeast, every = 3 * time.Second, 150 * time.Millisecond
			server := livetest.NewHistoryServer(t, live.TopicOptions{History: test.history}, nil)
			at := livetest.Serve(t, server.Handler())
			topics := []string{"a", "b", "c", "d"}

			calm := make(chan struct{})
			var published atomic.Int64 // the newest number of each topic, or the next
			var last [4]atomic.Int64   // set when calm
			done := func(r *roamer) bool {
				for i, topic := range topics {
					if a := r.accounts[topic]; a != nil && (last[i].Load() == 0 || int64(a.seen) < last[i].Load()) {
						return false
					}
				}
				return true
			}
			all := make([]*roamer, clients)
			var roaming sync.WaitGroup
			for i := range all {
				r := &roamer{
					t: t, at: at, calm: calm, done: done,
					topics:   []string{topics[i%4], topics[(i+1)%4]},
					accounts: map[string]*account{topics[i%4]: {}, topics[(i+1)%4]: {}},
					up:       600 * time.Millisecond, down: 150 * time.Millisecond,
					take: func(r *roamer, f livetest.Frame) error {
						if f.Op == "gap" {
							return r.accounts[f.Topic].lost(f, int(published.Load()), test.history)
						}
						n, err := strconv.Atoi(string(f.Data))
						if err != nil {
							return err
						}
						return r.accounts[f.Topic].heard(n, f)
					},
					answered: func(_ *roamer, a *account, f livetest.Frame) error { return a.subscribed(f) },
				}
				all[i] = r
				roaming.Go(func() {
					time.Sleep(rand.N(time.Second)) // they do not come all at once
					r.roam()
				})
			}
			n := 0
			dials := func() (sum int) {
				for _, r := range all {
					sum += int(r.dials.Load())
				}
				return sum
			}
			// Until each line has been cut, most of them more than once.
			for start := time.Now(); time.Since(start) < atLeast || dials() < 5*clients/2 && time.Since(start) < 2*livetest.Patience; time.Sleep(every) {
				n++
				published.Store(int64(n))
				for _, topic := range topics {
					livetest.PublishNumbers(t, server, topic, n, n)
				}
			}
			close(calm)
			n++
			published.Store(int64(n))
			for i, topic := range topics {
				last[i].Store(int64(n + 1))
				livetest.PublishNumbers(t, server, topic, n, n)
			}
			time.Sleep(every)
			published.Store(int64(n + 1))
			for _, topic := range topics {
				livetest.PublishNumbers(t, server, topic, n+1, n+1)
			}
			roaming.Wait()

			gaps := 0
			for _, r := range all {
				for _, a := range r.accounts {
					gaps += a.gaps
				}
			}
			t.Logf("%d connections, %d publications of each topic, %d gaps", dials(), n+1, gaps)
			if dials() < 2*clients {
				t.Errorf("%d connections of %d clients: the lines were hardly cut", dials(), clients)
			}
			if test.complete != (gaps == 0) {
				t.Errorf("%d gaps", gaps)
			}
			livetest.Eventually(t, "the sessions' end", func() bool { return server.Stats().Sessions == 0 })
		})
	}
}

// child is a server in a process of its own.
type child struct {
	*exec.Cmd
	addr string
}

func startChild(t testing.TB, program, addr string) *child {
	t.Helper()
	for tries := 0; ; tries++ {
		c := &child{Cmd: exec.Command(program, "-addr", addr)}
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err == nil {
			c.addr = strings.TrimSpace(line)
			return c
		}
		c.kill()
		if tries == 50 {
			t.Fatalf("the server does not start: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill kills the process at once: SIGKILL, of which it hears nothing.
func (c *child) kill() {
	c.Process.Kill()
	c.Wait()
}

// What a process kept is gone when it is killed. Each client is told, once for
// each process, and has everything of each from where it was told to begin.
func TestServerThatIsKilledAndRestartedTellsAGap(t *testing.T) {
	const clients, kills = 60, 3
	program := filepath.Join(t.TempDir(), "server")
	if out, err := exec.Command("go", "build", "-o", program, "./node/server").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := startChild(t, program, "127.0.0.1:0")
	defer func() { c.kill() }()

	type count struct {
		Run int64
		N   int
	}
	var ended atomic.Bool
	all := make([]*roamer, clients)
	runs := make([]atomic.Int64, clients) // of each client: the process that it hears
	allHear := func(c *child) {
		livetest.Eventually(t, "all to hear the process", func() bool {
			for i := range runs {
				if runs[i].Load() != int64(c.Process.Pid) {
					return false
				}
			}
			return true
		})
	}
	var roaming sync.WaitGroup
	for i := range all {
		told := false // of a gap, and nothing has come since
		take := func(a *account, data json.RawMessage, at string) error {
			var got count
			if err := json.Unmarshal(data, &got); err != nil {
				return err
			}
			if before := runs[i].Swap(got.Run); before != got.Run && before != 0 && !told {
				return fmt.Errorf("a new process, and no gap: %s", data)
			}
			told = false
			return a.publication(got.N, at)
		}
		r := &roamer{
			t: t, at: livetest.Endpoint{URL: "ws://" + c.addr}, topics: []string{"count"}, accounts: map[string]*account{"count": {}},
			up: time.Hour, down: 10 * time.Millisecond, calm: make(chan struct{}),
			done: func(*roamer) bool { return ended.Load() },
			take: func(r *roamer, f livetest.Frame) error {
				if f.Op == "gap" {
					return fmt.Errorf("got %s", f.Raw) // every process keeps all
				}
				return take(r.accounts["count"], f.Data, f.At)
			},
			answered: func(_ *roamer, a *account, f livetest.Frame) error {
				epoch, _ := livetest.OffsetOf(f.At)
				before, _ := livetest.OffsetOf(a.since)
				switch {
				case a.since == "":
					_, a.seen = livetest.OffsetOf(f.At)
				case f.Recovered == nil || f.WasRecovered() != (epoch == before):
					return fmt.Errorf("resumed since %s: %.200s", a.since, f.Raw)
				case f.WasRecovered():
					for _, m := range f.Messages {
						if err := take(a, m.Data, m.At); err != nil {
							return err
						}
					}
				default:
					told = true
					a.gaps++
					_, a.seen = livetest.OffsetOf(f.At)
				}
				a.since = f.At
				return nil
			},
		}
		all[i] = r
		roaming.Go(r.roam)
	}
	allHear(c)
	for range kills {
		c.kill()
		c = startChild(t, program, c.addr)
		allHear(c)
	}
	ended.Store(true)
	roaming.Wait()
	for i, r := range all {
		if gaps := r.accounts["count"].gaps; gaps != kills {
			t.Errorf("client %d was told of %d gaps, want %d", i, gaps, kills)
		}
	}
}
