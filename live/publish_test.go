package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func keepingAll(n int) live.Options {
	return live.Options{Topics: func(topic string) live.TopicOptions {
		if strings.HasPrefix(topic, "plain") {
			return live.TopicOptions{}
		}
		return live.TopicOptions{History: n}
	}}
}

func TestPositionsInGo(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, keepingAll(10))
	ctx := t.Context()
	before, err := server.Position(ctx, "t")
	if err != nil || before == (live.Position{}) {
		t.Fatal(before, err)
	}
	heard := make(chan live.Message, 10)
	sub, err := server.Listen("t", func(m live.Message) { heard <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	at, err := server.PublishContext(ctx, "t", []byte("1"))
	if err != nil || at.Epoch != before.Epoch || at.Offset <= before.Offset {
		t.Errorf("published at %v, %v; before it was %v", at, err, before)
	}
	if m := livetest.Receive(t, heard); m.Position != at {
		t.Errorf("heard at %v, want %v", m.Position, at)
	}
	if all, err := server.History(ctx, "t", 10); err != nil || len(all) != 1 || all[0].Position != at {
		t.Errorf("the history is %v, %v", all, err)
	}
	if now, err := server.Position(ctx, "t"); err != nil || now != at {
		t.Errorf("the position is %v, %v", now, err)
	}
	if b, err := json.Marshal(live.Message{Topic: "t", Position: at}); string(b) != `{"topic":"t"}` {
		t.Errorf("%s, %v", b, err)
	}
	if at, err := server.PublishContext(ctx, "plain", []byte("1")); err != nil || at != (live.Position{}) {
		t.Errorf("on a topic without history: %v, %v", at, err)
	}
	if _, err := server.Position(ctx, "plain"); !errors.Is(err, live.ErrNoHistory) {
		t.Errorf("the error is %v", err)
	}
	if _, err := server.Position(ctx, ""); !errors.Is(err, live.ErrInvalidTopic) {
		t.Errorf("the error is %v", err)
	}
}

// A page that is rendered from a database misses nothing: it follows from a position that was
// taken before.
func TestPageFollowsFromThePositionBeforeItWasRead(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Open(keepingAll(1000)))
	at := livetest.Serve(t, server.Handler())
	var publishing sync.WaitGroup
	publishing.Go(func() { livetest.PublishNumbers(t, server, "t", 1, 300) })
	since, err := server.Position(t.Context(), "t")
	if err != nil {
		t.Fatal(err)
	}
	publishing.Wait()
	c := livetest.DialV1(t, at)
	reply := c.Recovers(livetest.ResumeFrom(1, "t", since.String()), 300)
	if want := 300 - int(since.Offset); len(reply.Messages) != want {
		t.Errorf("%d came, want %d", len(reply.Messages), want)
	}
}

func TestContextReachesTheBroker(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, keepingAll(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := server.PublishContext(ctx, "t", []byte("1")); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if all, err := server.History(t.Context(), "t", 1); err != nil || len(all) != 0 {
		t.Errorf("published all the same: %v, %v", all, err)
	}
}

// A publication with an ID is made once, and the second Publish returns the position of the first.
func TestPublicationWithAnIDIsMadeOnce(t *testing.T) {
	t.Parallel()
	for _, topic := range []string{"t", "plain"} {
		server := livetest.NewServer(t, keepingAll(100))
		heard := make(chan string, 100)
		sub, err := server.Listen(topic, func(m live.Message) { heard <- string(m.Data) })
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		positions := make(map[live.Position]int)
		livetest.Each(20, func(i int) {
			at, err := server.PublishContext(t.Context(), topic, []byte("1"), live.ID("a"))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			positions[at]++
		})
		if len(positions) != 1 {
			t.Errorf("%s: positions %v", topic, positions)
		}
		for _, id := range []string{"b", "", ""} { // no ID is no name
			server.Publish(topic, []byte("2"), live.ID(id))
		}
		server.Publish("other", []byte("3"), live.ID("a"))
		server.Publish(topic, []byte("4"))
		want := "12224"
		for i := range want {
			if got := livetest.Receive(t, heard); got != want[i:i+1] {
				t.Errorf("%s: heard %s, want %c", topic, got, want[i])
			}
		}
		sub.Unsubscribe()
		if err := server.Publish(topic, []byte("1"), live.ID(strings.Repeat("x", 129))); err == nil {
			t.Error("a long ID is no error")
		}
	}
}

func TestIDsAreKnownForTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := live.New(keepingAll(100))
		defer server.Shutdown(context.Background())
		var positions []live.Position
		for _, wait := range []time.Duration{0, time.Minute, 59 * time.Second, 2 * time.Second, time.Minute} {
			time.Sleep(wait)
			at, err := server.PublishContext(t.Context(), "t", []byte("1"), live.ID("a"))
			if err != nil {
				t.Fatal(err)
			}
			positions = append(positions, at)
		}
		if p := positions; p[1] != p[0] || p[2] != p[0] || p[3] == p[0] || p[4] != p[3] {
			t.Errorf("%v", positions)
		}
	})
}

// However many IDs clients make up, few are kept.
func TestIDsAreBounded(t *testing.T) {
	server := livetest.NewServer(t, keepingAll(1))
	for i := range 100_000 {
		server.Publish("t", []byte("1"), live.ID(fmt.Sprint(i)))
	}
	before := liveHeap()
	for i := range 100_000 {
		server.Publish("t", []byte("1"), live.ID(fmt.Sprint(100_000+i)))
	}
	if grown := liveHeap() - before; grown > 2<<20 {
		t.Errorf("100,000 more IDs take %d bytes", grown)
	}
}

// IDs take no memory when their time is over, and others publish without.
func TestIDsAreFreedAfterTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := live.New(keepingAll(1))
		defer server.Shutdown(context.Background())
		server.Publish("t", []byte("1"))
		before := liveHeap()
		for i := range 50_000 {
			server.Publish("t", []byte("1"), live.ID(fmt.Sprint(i)))
		}
		if grown := liveHeap() - before; grown < 2<<20 {
			t.Errorf("50,000 IDs take %d bytes: nothing is tested", grown)
		}
		time.Sleep(3 * time.Minute)
		server.Publish("t", []byte("1"))
		if grown := liveHeap() - before; grown > 1<<20 {
			t.Errorf("%d bytes are left", grown)
		}
	})
}

// A client may repeat a publication, in another session of the same user. Another user's with the
// same uid is another publication.
func TestClientMayRepeatAPublication(t *testing.T) {
	t.Parallel()
	opts := livetest.Open(keepingAll(100))
	opts.OnAuth = byHeader
	server := livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	const publish = `{"op":"publish","id":1,"topic":"t","data":1,"uid":"u1"}`
	offsets := make(map[string][]int)
	for _, user := range []string{"ana", "ana", "bo", "bo", "ana"} {
		c := livetest.Connect(t, at, livetest.Dialing{V1: true, Header: map[string][]string{"User": {user}}}).Attend().Greeted()
		_, offset := livetest.OffsetOf(c.Must(publish).At)
		offsets[user] = append(offsets[user], offset)
		c.Drop()
	}
	if want := "map[ana:[1 1 1] bo:[2 2]]"; fmt.Sprint(offsets) != want {
		t.Errorf("%v, want %s", offsets, want)
	}
	c := livetest.DialV1(t, at)
	livetest.Refused(t, "a long uid", c.Do(`{"op":"publish","id":3,"topic":"t","uid":"`+strings.Repeat("x", 65)+`"}`), 3, "bad_request")
	livetest.Refused(t, "a uid that is a number", c.Do(`{"op":"publish","id":4,"topic":"t","uid":5}`), 4, "bad_request")
}

// A frame with data that nests too deeply could not be read by many clients. The client that sends such data is at fault, and not the
// application.
func TestDeepDataOfAClientIsRefused(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Permissive())
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	publish := func(id, levels int) string {
		return fmt.Sprintf(`{"op":"publish","id":%d,"topic":"t","data":%s%s}`, id, strings.Repeat("[", levels), strings.Repeat("]", levels))
	}
	c.Must(publish(1, 9_990))
	livetest.Refused(t, "9,991 levels", c.Do(publish(2, 9_991)), 2, "bad_request")
	livetest.Refused(t, "100,000 levels", c.Do(publish(3, 100_000)), 3, "bad_request")
	c.Say(`[` + publish(4, 9_990) + `,` + publish(5, 20_000) + `,{"topic":"plain","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `},` + publish(6, 1) + `]`)
	for id, op := range []string{4: "reply", 5: "error", 6: "reply"} {
		if op == "" {
			continue
		}
		if f, _ := c.Reply(id); f.Op != op {
			t.Errorf("operation %d of a frame with others: %.100s", id, f.Raw)
		}
	}
	c.Say(`{"op":"publish","id":7,"topic":"t","data":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 19_999) + `}`)
	if code, _, _ := c.Closed(); code != live.CloseProtocol {
		t.Errorf("after a frame that is not JSON: closed with %d", code)
	}
}

// What OnPublish returns is published: the application knows the author.
func TestApplicationStampsTheAuthor(t *testing.T) {
	t.Parallel()
	opts := livetest.Open(keepingAll(100))
	opts.OnPublish = func(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
		switch topic {
		case "nothing":
			return nil, nil
		case "broken":
			return []byte("{"), nil
		}
		return fmt.Appendf(nil, `{"by":"ana","said":%s}`, data), nil
	}
	opts.Logger = livetest.Quiet
	server := livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.Operation("publish", 1, "t", "data", "hello"))
	c.Must(livetest.Operation("publish", 2, "nothing", "data", "hello"))
	livetest.Refused(t, "broken data", c.Do(livetest.Operation("publish", 3, "broken", "data", "hello")), 3, "internal")
	for topic, want := range map[string]string{"t": `{"by":"ana","said":"hello"}`, "nothing": ""} {
		all, err := server.History(t.Context(), topic, 5)
		if err != nil || len(all) != 1 || string(all[0].Data) != want {
			t.Errorf("%s: %v, %v", topic, all, err)
		}
	}
}

const aTrace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

type traceKey struct{}

// A listener can go on with the trace in which a message was published. What is no trace is left out.
func TestTraceOfAPublicationReachesListeners(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{
		Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} },
		TraceParent: func(ctx context.Context) string {
			trace, _ := ctx.Value(traceKey{}).(string)
			return trace
		},
	})
	heard := make(chan live.Message, 10)
	listening, err := server.Listen("t", func(m live.Message) { heard <- m })
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Unsubscribe()
	traces := map[string]string{"": "", aTrace: aTrace, "no trace": "", aTrace + "\r\n": ""}
	for trace, want := range traces {
		if _, err := server.PublishContext(context.WithValue(t.Context(), traceKey{}, trace), "t", []byte("1")); err != nil {
			t.Fatal(err)
		}
		if m := livetest.Receive(t, heard); m.TraceParent != want {
			t.Errorf("the trace %q comes as %q", trace, m.TraceParent)
		}
	}
	messages, err := server.History(t.Context(), "t", 10)
	if err != nil || !slices.ContainsFunc(messages, func(m live.Message) bool { return m.TraceParent == aTrace }) {
		t.Errorf("the history has %v, %v", messages, err)
	}
}

// OnPublish says in which trace its client's publication is made, and nothing else is in that trace.
func TestOnPublishSetsTheTrace(t *testing.T) {
	t.Parallel()
	const other = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01"
	var server *live.Server
	opts := live.Options{
		TraceParent: func(context.Context) string { return aTrace },
		OnPublish: func(ctx context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
			live.SetTraceParent(context.WithValue(ctx, traceKey{}, "a context made from it"), map[string]string{"other": other, "none": "no trace"}[topic])
			live.SetTraceParent(s.Context(), other) // does nothing
			_, err := server.PublishContext(ctx, "application", []byte("1"))
			return data, err
		},
	}
	server = livetest.NewServer(t, opts)
	heard := make(chan live.Message, 10)
	want := map[string]string{"other": other, "default": aTrace, "none": "", "application": aTrace}
	for topic := range want {
		listening, err := server.Listen(topic, func(m live.Message) { heard <- m })
		if err != nil {
			t.Fatal(err)
		}
		defer listening.Unsubscribe()
	}
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	for i, topic := range []string{"other", "default", "none"} {
		c.Must(livetest.Operation("publish", i+1, topic, "data", 1))
		for range 2 { // the client's, and the application's
			if m := livetest.Receive(t, heard); m.TraceParent != want[m.Topic] {
				t.Errorf("on %s the trace is %q, want %q", m.Topic, m.TraceParent, want[m.Topic])
			}
		}
	}
}
