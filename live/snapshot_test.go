package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// countingApp is an application with one number: its state. Each change is published after it was
// made, as the number that it made.
type countingApp struct {
	mu    sync.Mutex
	n     int
	asked atomic.Int64
	pause time.Duration // before the state is read, and after
	fill  string        // makes the state large
	fail  func() error
	after func() // called when the state was read
}

type countedState struct {
	N    int    `json:"n"`
	Fill string `json:"fill"`
}

func (a *countingApp) snapshot(context.Context, string) (any, error) {
	a.asked.Add(1)
	if a.fail != nil {
		if err := a.fail(); err != nil {
			return nil, err
		}
	}
	time.Sleep(a.pause)
	a.mu.Lock()
	state := countedState{a.n, a.fill}
	a.mu.Unlock()
	if a.after != nil {
		a.after()
	}
	time.Sleep(a.pause)
	return state, nil
}

// change makes the next number, and publishes it.
func (a *countingApp) change(t testing.TB, server *live.Server) {
	t.Helper()
	a.mu.Lock()
	a.n++
	n := a.n
	a.mu.Unlock()
	if err := server.Publish("n", []byte(strconv.Itoa(n))); err != nil {
		t.Error(err)
	}
}

func (a *countingApp) serve(t testing.TB, opts live.Options) (*live.Server, livetest.Endpoint) {
	opts.Topics = func(string) live.TopicOptions { return live.TopicOptions{History: 50, Snapshot: a.snapshot} }
	opts.Logger = livetest.Quiet
	server := livetest.NewServer(t, livetest.Open(opts))
	return server, livetest.Serve(t, server.Handler())
}

// follow reads a state and what follows it up to a number: every number after the state's, once
// and in order. Before them may come numbers that the state has.
func follow(t testing.TB, c *livetest.Client, reply livetest.Frame, last int) {
	t.Helper()
	var state countedState
	if err := json.Unmarshal(reply.State, &state); err != nil {
		t.Fatalf("%v in %s", err, reply.Raw)
	}
	next := 0 // not known yet
	for at := state.N; at < last || next <= last && next > 0; {
		f := c.Next()
		n, err := strconv.Atoi(string(f.Data))
		if err != nil || f.At == "" {
			t.Fatalf("came %s", f.Raw)
		}
		if next == 0 && n > state.N+1 || next > 0 && n != next {
			t.Fatalf("after a state of %d, and up to %d, came %d", state.N, next-1, n)
		}
		next, at = n+1, max(at, n)
	}
}

// Clients that come while the state changes have the state, and every change that it lacks.
func TestNewcomersHaveTheStateThenEveryChange(t *testing.T) {
	t.Parallel()
	const clients, changes = 40, 300
	a := &countingApp{pause: 2 * time.Millisecond}
	server, at := a.serve(t, live.Options{QueueSize: livetest.PatientQueue})
	var changing sync.WaitGroup
	changing.Go(func() {
		for range changes {
			a.change(t, server)
			time.Sleep(time.Millisecond)
		}
	})
	var following sync.WaitGroup
	for i := range clients {
		c := livetest.DialV1(t, at)
		following.Go(func() {
			time.Sleep(time.Duration(i) * 5 * time.Millisecond)
			c.Send(livetest.SubscribeTo(1, "n"))
			follow(t, c, c.Next(), changes)
		})
	}
	changing.Wait()
	following.Wait()
}

func TestStateIsAskedForOnceForAllThatCome(t *testing.T) {
	t.Parallel()
	a := &countingApp{pause: 50 * time.Millisecond}
	server, at := a.serve(t, live.Options{})
	a.change(t, server)
	var all sync.WaitGroup
	for range 100 {
		c := livetest.DialV1(t, at)
		all.Go(func() { follow(t, c, c.Do(livetest.SubscribeTo(1, "n")), 1) })
	}
	all.Wait()
	if n := a.asked.Load(); n > 5 || n != int64(server.Stats().Snapshots) {
		t.Errorf("the application was asked %d times, and %d are counted", n, server.Stats().Snapshots)
	}
}

// Clients that come within a second of one another share a state too.
func TestStateIsGivenToClientsThatComeALittleLater(t *testing.T) {
	t.Parallel()
	a := &countingApp{}
	server, at := a.serve(t, live.Options{})
	for i := range 100 {
		c := livetest.DialV1(t, at)
		a.change(t, server)
		follow(t, c, c.Do(livetest.SubscribeTo(1, "n")), i+1)
	}
	if n := a.asked.Load(); n > 30 {
		t.Errorf("the application was asked %d times for 100 clients", n)
	}
}

// A client that comes back gets what it missed, and the state only if that is not to be had.
func TestStateIsForPositionsThatAreTooOld(t *testing.T) {
	t.Parallel()
	a := &countingApp{}
	server, at := a.serve(t, live.Options{})
	c := livetest.DialV1(t, at)
	first := c.Do(livetest.SubscribeTo(1, "n"))
	follow(t, c, first, 0)
	c.Drop()
	for range 10 {
		a.change(t, server)
	}
	c = livetest.DialV1(t, at)
	reply := c.Do(livetest.ResumeFrom(1, "n", first.At))
	if len(reply.Messages) != 10 || reply.State != nil || a.asked.Load() != 1 {
		t.Errorf("a client that missed 10 got %s", reply.Raw)
	}
	c.Drop()
	for range 100 { // twice the history
		a.change(t, server)
	}
	for name, since := range map[string]string{"too old": first.At, "of another history": "other.5"} {
		c = livetest.DialV1(t, at)
		reply = c.Do(livetest.ResumeFrom(1, "n", since))
		if !strings.Contains(reply.Raw, `"recovered":false`) {
			t.Errorf("%s: %s", name, reply.Raw)
		}
		follow(t, c, reply, 110)
	}
}

// While the state is made, more may be published than the server holds beside the history. A client
// reads that in the history. A listener does not, and is told.
func TestMuchIsPublishedWhileAStateIsMade(t *testing.T) {
	t.Parallel()
	const each = 400
	a := &countingApp{}
	server := livetest.NewServer(t, livetest.Open(live.Options{Logger: livetest.Quiet, Topics: func(string) live.TopicOptions {
		return live.TopicOptions{History: 1000, Snapshot: a.snapshot}
	}}))
	a.after = func() {
		for range each {
			a.change(t, server)
		}
	}
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Send(livetest.SubscribeTo(1, "n"))
	follow(t, c, c.Next(), each)
	if n := a.asked.Load(); n != 1 {
		t.Errorf("the application was asked %d times", n)
	}
	if _, err := server.Listen("n", func(live.Message) {}, live.OnState(func(json.RawMessage) {})); !errors.Is(err, live.ErrSnapshot) {
		t.Errorf("the listener's error is %v", err)
	}
}

// A subscription that stands can be given the state again: a client asks after a gap.
func TestStateComesAgainWhereAClientAsks(t *testing.T) {
	t.Parallel()
	a := &countingApp{}
	server, at := a.serve(t, live.Options{})
	c := livetest.DialV1(t, at)
	for i := 1; i < 4; i++ {
		follow(t, c, c.Do(livetest.SubscribeTo(i, "n")), i-1)
		a.change(t, server)
		c.Hears("n", strconv.Itoa(i))
		if n := server.Stats().Subscriptions; n != 1 {
			t.Fatalf("%d subscriptions", n)
		}
	}
}

func TestLargeStateComesInPieces(t *testing.T) {
	t.Parallel()
	a := &countingApp{fill: strings.Repeat("é", 500_000)}
	server, at := a.serve(t, live.Options{})
	for i, deflate := range []bool{false, true} {
		c := livetest.Connect(t, at, livetest.Dialing{V1: true, Deflate: deflate}).Attend().Greeted()
		reply := c.Do(livetest.SubscribeTo(1, "n"))
		var state countedState
		if err := json.Unmarshal(reply.State, &state); err != nil || state.Fill != a.fill {
			t.Errorf("the state is not what it was: %v", err)
		}
		a.change(t, server)
		follow(t, c, reply, i+1)
		c.Drop()
	}
}

// A client that takes a state slowly hears other topics meanwhile, and holds one state however
// many it asks for.
func TestOtherTopicsGoOnBesideALargeState(t *testing.T) {
	t.Parallel()
	a := &countingApp{fill: strings.Repeat("x", 4<<20)}
	server, _ := a.serve(t, live.Options{})
	at := livetest.ServeSmall(t, server.Handler())
	c := livetest.Connect(t, at, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer, Pace: 1 << 20}).Attend().Greeted()
	c.Send(livetest.SubscribeTo(1, "n"))
	f := c.Next()
	if f.Op != "part" {
		t.Fatalf("came %.100s", f.Raw)
	}
	c.Send(`{"op":"ping"}`)
	pieces := 0
	for f.Op != "pong" {
		if f = c.Next(); f.Op == "part" {
			pieces++
		}
	}
	if pieces > 50 {
		t.Errorf("the pong came after %d pieces", pieces)
	}
	for f.Op != "reply" {
		f = c.Next()
	}
}

// The application ends a subscription while its client is sent the state. The client gets no more pieces, and
// learns that those it has are of no use.
func TestSubscriptionThatEndsWithinItsState(t *testing.T) {
	t.Parallel()
	a := &countingApp{fill: strings.Repeat("x", 4<<20)}
	opts, sessions := livetest.Connected(live.Options{})
	server, _ := a.serve(t, opts)
	at := livetest.ServeSmall(t, server.Handler())
	c := livetest.Connect(t, at, livetest.Dialing{V1: true, Buffer: livetest.SmallBuffer, Pace: 1 << 20}).Attend().Greeted()
	s := livetest.Receive(t, sessions)
	c.Send(livetest.SubscribeTo(1, "n"))
	if f := c.Next(); f.Op != "part" {
		t.Fatalf("came %.100s", f.Raw)
	}
	if err := server.Unsubscribe(s, "n"); err != nil {
		t.Fatal(err)
	}
	f := c.Next()
	for f.Op == "part" {
		f = c.Next()
	}
	livetest.Refused(t, "the subscription", f, 1, "unavailable")
	if rest := c.Settled(); len(rest) > 0 {
		t.Errorf("after the answer came %d frames more, first %.100s", len(rest), rest[0].Raw)
	}
}

// Snapshots that do not return keep their places, and hold up nobody for longer than their time. So do those
// that end their goroutine.
func TestSnapshotsThatDoNotReturn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		logger, logged := livetest.Logged()
		server := live.New(live.Options{Logger: logger, Topics: func(topic string) live.TopicOptions {
			return live.TopicOptions{Snapshot: func(context.Context, string) (any, error) {
				switch topic {
				case "exits":
					runtime.Goexit()
				case "good":
				default:
					<-hang
				}
				return 1, nil
			}}
		}})
		defer server.Shutdown(context.Background())
		listen := func(topic string) error {
			sub, err := server.Listen(topic, func(live.Message) {}, live.OnState(func(json.RawMessage) {}))
			if err == nil {
				sub.Unsubscribe()
			}
			return err
		}
		if err := listen("exits"); !errors.Is(err, live.ErrSnapshot) {
			t.Errorf("a Snapshot that ends its goroutine: %v", err)
		}
		began := time.Now()
		var all sync.WaitGroup
		for i := range 9 { // one more than may run at the same time
			all.Go(func() {
				if err := listen(fmt.Sprint("hangs", i)); !errors.Is(err, live.ErrSnapshot) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a Snapshot that does not return: %v", err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := strings.Count(logged(), "goes on after its context"); n != 8 {
			t.Errorf("logged %d times", n)
		}
		close(hang)
		synctest.Wait()
		if err := listen("good"); err != nil {
			t.Error(err)
		}
	})
}

func TestStateThatIsNotToBeHad(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		fail func() error
		code string
	}{
		{"fails", func() error { return errors.New("the database is down") }, "internal"},
		{"is not there now", func() error { return fmt.Errorf("soon: %w", live.ErrUnavailable) }, "unavailable"},
		{"takes too long", func() error { return context.DeadlineExceeded }, "unavailable"},
		{"panics", func() error { panic("of one that fails") }, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &countingApp{fail: c.fail}
			server, at := a.serve(t, live.Options{})
			client := livetest.DialV1(t, at)
			livetest.Refused(t, "the subscription", client.Do(livetest.SubscribeTo(7, "n")), 7, c.code)
			if n := server.Stats().Subscriptions; n != 0 {
				t.Errorf("%d subscriptions are left", n)
			}
			a.fail = nil
			follow(t, client, client.Do(livetest.SubscribeTo(8, "n")), 0)
			sub, err := server.Listen("m", func(live.Message) {}, live.OnState(func(json.RawMessage) {}))
			if err != nil {
				t.Fatal(err)
			}
			sub.Unsubscribe()
		})
	}
}

func TestStateThatIsNoJSON(t *testing.T) {
	t.Parallel()
	for name, state := range map[string]any{"a channel": make(chan int), "no JSON": []byte("{"), "no UTF-8": []byte("\"\xff\"")} {
		server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet, Topics: func(string) live.TopicOptions {
			return live.TopicOptions{Snapshot: func(context.Context, string) (any, error) { return state, nil }}
		}})
		_, err := server.Listen("t", func(live.Message) {}, live.OnState(func(json.RawMessage) {}))
		if !errors.Is(err, live.ErrSnapshot) || !errors.Is(err, live.ErrInvalidData) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// JSON stays as it is, and no value is null.
func TestStateIsSentAsItIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		state any
		want  string
	}{{[]byte(`{"a": 1}`), `{"a": 1}`}, {json.RawMessage(`[2]`), `[2]`}, {nil, "null"}, {[]byte(nil), "null"}, {"é", `"é"`}} {
		server := livetest.NewServer(t, live.Options{Topics: func(string) live.TopicOptions {
			return live.TopicOptions{Snapshot: func(context.Context, string) (any, error) { return c.state, nil }}
		}})
		got := make(chan string, 1)
		sub, err := server.Listen("t", func(live.Message) {}, live.OnState(func(s json.RawMessage) { got <- string(s) }))
		if err != nil {
			t.Fatal(err)
		}
		if s := livetest.Receive(t, got); s != c.want {
			t.Errorf("%v came as %s", c.state, s)
		}
		sub.Unsubscribe()
	}
}

func TestSnapshotNeedsAHistory(t *testing.T) {
	t.Parallel()
	a := &countingApp{}
	server, at := a.serve(t, live.Options{Broker: live.FromPubSub(newRelay())})
	c := livetest.DialV1(t, at)
	livetest.Refused(t, "the subscription", c.Do(livetest.SubscribeTo(1, "n")), 1, "no_history")
	if n := server.Stats().Subscriptions; n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	if _, err := server.Listen("n", func(live.Message) {}, live.OnState(func(json.RawMessage) {})); !errors.Is(err, live.ErrNoHistory) {
		t.Error(err)
	}
}

// A listener has the state, everything after it, and the state again where it was too slow.
func TestListenerHasTheStateThenEveryChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &countingApp{}
		server := live.New(live.Options{QueueSize: 4, Logger: livetest.Quiet, Topics: func(string) live.TopicOptions {
			return live.TopicOptions{History: 10, Snapshot: a.snapshot}
		}})
		defer server.Shutdown(context.Background())
		a.change(t, server)
		var told []string
		wait := make(chan struct{})
		sub, err := server.Listen("n", func(m live.Message) {
			told = append(told, string(m.Data))
			if string(m.Data) == "2" {
				<-wait
			}
		}, live.OnState(func(state json.RawMessage) {
			var s countedState
			json.Unmarshal(state, &s)
			told = append(told, fmt.Sprint("state ", s.N))
		}), live.OnGap(func(string) { told = append(told, "gap") }))
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Unsubscribe()
		for range 2 {
			a.change(t, server)
			synctest.Wait()
		}
		time.Sleep(2 * time.Second) // the first state is not used again
		for range 10 {
			a.change(t, server)
		}
		close(wait)
		synctest.Wait()
		a.change(t, server)
		synctest.Wait()
		if want := []string{"state 1", "2", "state 13", "14"}; !slices.Equal(told, want) {
			t.Errorf("it was told %q, want %q", told, want)
		}
	})
}

// States are kept for a moment, and their memory is free afterwards: also of thousands of topics
// that came and went.
func TestStatesAreNotKept(t *testing.T) {
	for name, test := range map[string]struct {
		topics int
		fill   int
		leave  bool
	}{"large": {100, 100 << 10, false}, "many": {4000, 500, true}} {
		t.Run(name, func(t *testing.T) {
			a := &countingApp{fill: strings.Repeat("x", test.fill)}
			server, at := a.serve(t, live.Options{InboundRate: -1})
			c := livetest.DialV1(t, at)
			c.Must(livetest.SubscribeTo(1, "first"))
			c.Must(livetest.UnsubscribeFrom(2, "first"))
			before := liveHeap()
			for i := range test.topics {
				topic := fmt.Sprint("n", i)
				c.Must(livetest.SubscribeTo(1, topic))
				if test.leave {
					c.Must(livetest.UnsubscribeFrom(2, topic))
				}
			}
			livetest.Eventually(t, "the states to be dropped", func() bool { return liveHeap() < before+1<<20 })
			if n := server.Stats().Topics; test.leave && n != 0 {
				t.Errorf("%d topics are left", n)
			}
		})
	}
}

// A large state is shared by those that come within a second, however many there were before.
func TestStatesThatWereDroppedDoNotCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &countingApp{fill: strings.Repeat("x", 8<<20)}
		server := live.New(live.Options{Logger: livetest.Quiet, Topics: func(string) live.TopicOptions {
			return live.TopicOptions{Snapshot: a.snapshot}
		}})
		defer server.Shutdown(context.Background())
		const rounds = 12 // together more than a server keeps at a time
		for range rounds {
			for range 2 {
				sub, err := server.Listen("n", func(live.Message) {}, live.OnState(func(json.RawMessage) {}))
				if err != nil {
					t.Fatal(err)
				}
				defer sub.Unsubscribe()
				synctest.Wait()
			}
			time.Sleep(2 * time.Second)
		}
		if n := a.asked.Load(); n != rounds {
			t.Errorf("the application was asked %d times in %d seconds", n, rounds)
		}
	})
}

func TestHandlerOfALogMayPublishToTheTopicThatGetsNoNewState(t *testing.T) {
	var server *live.Server
	var states atomic.Int32
	published := make(chan error, 1)
	server = livetest.NewServer(t, live.Options{
		QueueSize: 1,
		Topics: func(string) live.TopicOptions {
			return live.TopicOptions{History: 1, Snapshot: func(context.Context, string) (any, error) {
				if states.Add(1) > 1 {
					return nil, errors.New("no state")
				}
				return 1, nil
			}}
		},
		Logger: slog.New(logCalls(func(line slog.Record) {
			if line.Message == "live: listener gets no new state after a gap" {
				published <- server.Publish("t", []byte(`1`))
			}
		})),
	})
	begun, wait := make(chan struct{}), make(chan struct{})
	listening, err := server.Listen("t", func(live.Message) {}, live.OnState(func(json.RawMessage) {
		close(begun)
		<-wait
	}), live.OnGap(func(string) {}))
	if err != nil {
		t.Fatal(err)
	}
	livetest.Receive(t, begun)
	for range 5 { // more than the listener's queue and the history hold
		server.Publish("t", []byte(`0`))
	}
	close(wait)
	if err := livetest.Receive(t, published); err != nil {
		t.Error(err)
	}
	listening.Unsubscribe()
}
