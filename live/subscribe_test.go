package live_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestTopicsThatAreNone(t *testing.T) {
	t.Parallel()
	opts := livetest.Permissive()
	opts.MaxTopicLength = 10
	c := livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, opts).Handler()))
	for _, op := range []string{"subscribe", "unsubscribe", "publish", "history"} {
		rest := `,"data":1,"limit":1}`
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":1,"topic":""`+rest), 1, "invalid_topic")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":2,"topic":"01234567890"`+rest), 2, "invalid_topic")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":3,"topic":"ééééé1"`+rest), 3, "invalid_topic")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":4`+rest), 4, "bad_request") // a member is missing
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":5,"topic":7`+rest), 5, "bad_request")
		livetest.Refused(t, op, c.Do(`{"op":"`+op+`","id":6,"topic":["t"]`+rest), 6, "bad_request")
	}
	livetest.Refused(t, "history", c.Do(`{"op":"history","id":7,"topic":"t","limit":1}`), 7, "no_history")
	c.Must(`{"op":"subscribe","id":8,"topic":"0123456789"}`)
}

func TestReplyComesBeforeTheFirstPublication(t *testing.T) {
	const clients, rounds = 8, 60
	for _, topic := range []string{"t", "chat"} {
		t.Run(topic, func(t *testing.T) {
			opts := livetest.Permissive()
			opts.QueueSize = livetest.PatientQueue
			server := livetest.NewServer(t, opts)
			at := livetest.Serve(t, server.Handler())
			defer livetest.Hammer(server, topic)()
			defer livetest.Hammer(server, topic)()
			livetest.Each(clients, func(i int) {
				c := livetest.DialV1(t, at)
				for round := range rounds {
					if f := c.Do(livetest.SubscribeTo(round+1, topic)); f.ID != round+1 || f.Op != "reply" {
						t.Errorf("client %d, round %d: %s came before the reply", i, round, f.Raw)
						return
					}
					for range round % 3 {
						if f := c.Next(); !f.IsPublication() {
							t.Errorf("client %d, round %d: got %s", i, round, f.Raw)
							return
						}
					}
					c.Send(livetest.UnsubscribeFrom(1000+round, topic))
					if f, _ := c.Answer(); f.ID != 1000+round {
						t.Errorf("client %d, round %d: got %s", i, round, f.Raw)
						return
					}
				}
			})
		})
	}
}

// After the reply to unsubscribe nothing of the topic comes.
func TestNothingFollowsTheReplyToUnsubscribe(t *testing.T) {
	opts := livetest.Permissive()
	opts.QueueSize = livetest.PatientQueue
	server := livetest.NewServer(t, opts)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	defer livetest.Hammer(server, "t")()
	for i := range 200 {
		c.Must(livetest.SubscribeTo(i+1, "t"))
		c.Send(livetest.UnsubscribeFrom(i+1, "t"))
		c.Answer()
	}
	if after := c.Settled(); len(after) != 0 {
		t.Errorf("%s came after the reply", after[0].Raw)
	}
}

// A client that has seen the first seen of so many publications comes back.
func TestResumeReturnsExactlyWhatWasMissed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		history, published, seen int
		recovered                bool
	}{
		{10, 0, 0, true},
		{10, 1, 0, true},
		{10, 1, 1, true},
		{10, 10, 0, true},  // exactly what is kept
		{10, 11, 0, false}, // one less
		{10, 11, 1, true},
		{10, 500, 489, false},
		{10, 500, 490, true},
		{10, 500, 499, true},
		{10, 500, 500, true},
		{1, 5, 3, false},
		{1, 5, 4, true},
		{256, 256, 0, true}, // what the server has at hand
		{257, 257, 0, true}, // and one more
		{256, 257, 0, false},
		{2000, 600, 100, true},
		{2000, 600, 343, true},
		{2000, 600, 344, true},
		{2000, 600, 345, true},
		{2000, 1500, 500, true},
		{2000, 1500, 499, true}, // 1,001, which no single page of a history has
		{2000, 1500, 0, true},
		{2000, 1500, 1400, true},
		{1000, 1500, 500, true},
		{1000, 1500, 499, false},
		{4000, 4000, 0, true}, // whatever the history holds
		{4000, 4001, 0, false},
	} {
		for _, someoneStays := range []bool{false, true} { // whose subscription keeps the topic awake
			name := fmt.Sprintf("history %d, %d of %d seen, someone stays: %t", test.history, test.seen, test.published, someoneStays)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				server := livetest.NewHistoryServer(t, live.TopicOptions{History: test.history}, nil)
				at := livetest.Serve(t, server.Handler())
				c := livetest.DialV1(t, at)
				if someoneStays {
					listening, err := server.Listen("t", func(live.Message) {})
					if err != nil {
						t.Fatal(err)
					}
					defer listening.Unsubscribe()
				}
				since := c.Must(livetest.SubscribeTo(1, "t")).At
				for n := range test.seen {
					server.Publish("t", fmt.Appendf(nil, `%d`, n+1))
					since = c.Hears("t", fmt.Sprint(n+1))[0].At
				}
				c.Drop()
				livetest.Eventually(t, "the session's end", func() bool { return server.Stats().Sessions == 0 })
				livetest.PublishNumbers(t, server, "t", test.seen+1, test.published)

				c = livetest.DialV1(t, at)
				f := c.Recovers(livetest.ResumeFrom(1, "t", since), test.published)
				if f.Recovered == nil || *f.Recovered != test.recovered {
					t.Fatalf("answered by %.200s, want recovered %t", f.Raw, test.recovered)
				}
				if !test.recovered {
					if f.Messages != nil {
						t.Errorf("with a gap came %d messages", len(f.Messages))
					}
				} else {
					if f.Messages == nil {
						t.Fatalf("answered by %s, without messages", f.Raw)
					}
					if got := livetest.DataOf(f.Messages); !slices.Equal(got, livetest.Numbers(test.seen+1, test.published)) {
						t.Errorf("got %d messages: %.200v", len(got), got)
					}
					if n := len(f.Messages); n > 0 && f.Messages[n-1].At != f.At {
						t.Errorf("the last has the position %s, the reply %s", f.Messages[n-1].At, f.At)
					}
				}
				livetest.PublishNumbers(t, server, "t", test.published+1, test.published+3)
				c.Hears("t", livetest.Numbers(test.published+1, test.published+3)...)
			})
		}
	}
}

// From any position of which the client has been told it can go on.
func TestEveryPositionIsGoodToResumeFrom(t *testing.T) {
	const published = 300
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 1000}, nil)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	positions := []string{c.Must(livetest.SubscribeTo(1, "t")).At}
	for n := range published {
		server.Publish("t", fmt.Appendf(nil, `%d`, n+1))
		positions = append(positions, c.Hears("t", fmt.Sprint(n+1))[0].At)
	}
	if all := slices.Compact(slices.Sorted(slices.Values(positions))); len(all) != published+1 {
		t.Errorf("%d positions for %d publications", len(all), published)
	}
	for seen, since := range positions {
		c.Must(livetest.UnsubscribeFrom(1, "t"))
		f := c.Recovers(livetest.ResumeFrom(2, "t", since), published)
		if got := livetest.DataOf(f.Messages); !f.WasRecovered() || !slices.Equal(got, livetest.Numbers(seen+1, published)) {
			t.Fatalf("since %s, the %dth: %.200s", since, seen, f.Raw)
		}
		if f.At != positions[published] {
			t.Errorf("the topic is at %s, the reply says %s", positions[published], f.At)
		}
		for i, m := range f.Messages {
			if m.At != positions[seen+1+i] {
				t.Errorf("publication %s came at %s, and is now at %s", m.Data, positions[seen+1+i], m.At)
			}
		}
	}
}

// A client that is subscribed already is answered all the same, and hears
// everything once.
func TestResumingWhileSubscribedChangesNothing(t *testing.T) {
	t.Parallel()
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 10}, nil)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.SubscribeTo(1, "t"))
	livetest.PublishNumbers(t, server, "t", 1, 3)
	since := c.Hears("t", "1", "2", "3")[1].At
	f := c.Must(livetest.ResumeFrom(2, "t", since))
	if got := livetest.DataOf(f.Messages); !f.WasRecovered() || !slices.Equal(got, []string{"3"}) {
		t.Errorf("answered by %s", f.Raw)
	}
	server.Publish("t", []byte(`4`))
	c.Hears("t", "4")
	if extra := c.Settled(); len(extra) != 0 {
		t.Errorf("then came %s", extra[0].Raw)
	}
}

// The server's own Subscribe sends what was missed as publications.
func TestSubscribeWithSinceOrLast(t *testing.T) {
	t.Parallel()
	const published = 1000
	for _, n := range []int{0, 1, 10, 256, 257, 1000} {
		for _, test := range []struct {
			name string
			opt  func(live.Position) live.SubscribeOption
		}{
			{"Last", func(live.Position) live.SubscribeOption { return live.Last(n) }},
			{"Since", func(at live.Position) live.SubscribeOption {
				at.Offset -= uint64(n)
				return live.Since(at)
			}},
		} {
			t.Run(fmt.Sprintf("%s %d", test.name, n), func(t *testing.T) {
				var server *live.Server
				opts := livetest.Permissive()
				opts.Topics = livetest.Keeping("", live.TopicOptions{History: published})
				opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
					var at live.Position
					f := strings.Trim(string(data), `"`)
					at, err := live.ParsePosition(f)
					if err != nil {
						return nil, err
					}
					return nil, server.Subscribe(s, topic, test.opt(at))
				}
				server = livetest.NewServer(t, opts)
				c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
				livetest.PublishNumbers(t, server, "t", 1, published)
				at := c.Must(livetest.SubscribeTo(1, "t")).At
				c.Must(livetest.UnsubscribeFrom(2, "t"))
				c.Send(`{"op":"request","id":3,"topic":"t","data":"` + at + `"}`)
				var heard []string
				reply, before := c.Answer()
				if reply.Op != "reply" {
					t.Fatalf("answered by %s", reply.Raw)
				}
				for _, f := range before {
					heard = append(heard, string(f.Data))
				}
				server.Publish("t", fmt.Appendf(nil, `%d`, published+1))
				for len(heard) == 0 || heard[len(heard)-1] != fmt.Sprint(published+1) {
					heard = append(heard, string(c.Next().Data))
				}
				if want := livetest.Numbers(published-n+1, published+1); !slices.Equal(heard, want) {
					t.Errorf("heard %d publications: %s; want %d", len(heard), holeIn(heard), len(want))
				}
			})
		}
	}
}

// The newest after a gap are publications like others, and the gap lies before them.
func TestSubscribeWithSinceAndLast(t *testing.T) {
	t.Parallel()
	var server *live.Server
	opts := livetest.Permissive()
	opts.Topics = livetest.Keeping("", live.TopicOptions{History: 5})
	opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		at, err := live.ParsePosition(strings.Trim(string(data), `"`))
		if err != nil {
			return nil, err
		}
		return nil, server.Subscribe(s, topic, live.Since(at), live.Last(2))
	}
	server = livetest.NewServer(t, opts)
	where := livetest.Serve(t, server.Handler())
	livetest.PublishNumbers(t, server, "t", 1, 9)
	at := livetest.DialV1(t, where).Must(livetest.SubscribeTo(1, "t")).At
	epoch, _, _ := strings.Cut(at, ".")
	for _, test := range []struct {
		since string
		gap   string // "": none
		want  []string
	}{
		{epoch + ".2", epoch + ".7", livetest.Numbers(8, 9)},
		{"bygone.8", epoch + ".7", livetest.Numbers(8, 9)},
		{epoch + ".10", epoch + ".9", nil}, // it was ahead, and has what the newest are
		{epoch + ".5", "", livetest.Numbers(6, 9)},
		{epoch + ".9", "", nil},
	} {
		c := livetest.DialV1(t, where)
		c.Send(`{"op":"request","id":2,"topic":"t","data":"` + test.since + `"}`)
		_, before := c.Answer()
		if test.gap != "" {
			if len(before) == 0 {
				t.Fatalf("since %s: no gap", test.since)
			}
			livetest.Same(t, "since "+test.since, before[0].Raw, `{"op":"gap","topic":"t","at":"`+test.gap+`"}`)
			before = before[1:]
		}
		var heard []string
		for _, f := range before {
			heard = append(heard, string(f.Data))
		}
		if !slices.Equal(heard, test.want) {
			t.Errorf("since %s came %q, want %q", test.since, heard, test.want)
		}

		reply := c.Do(`{"op":"subscribe","id":3,"topic":"t","since":"` + test.since + `","last":2}`)
		if reply.Recovered == nil || *reply.Recovered != (test.gap == "") || reply.At != at {
			t.Errorf("since %s: answered by %s", test.since, reply.Raw)
		}
		heard = nil
		for _, m := range reply.Messages {
			heard = append(heard, string(m.Data))
		}
		if !slices.Equal(heard, test.want) {
			t.Errorf("since %s the answer has %q, want %q", test.since, heard, test.want)
		}
	}
	livetest.Same(t, "a topic without history", livetest.DialV1(t, livetest.Serve(t, livetest.NewServer(t, livetest.Permissive()).Handler())).Do(`{"op":"subscribe","id":4,"topic":"t","since":"a.1","last":2}`).Raw,
		`{"op":"reply","id":4,"recovered":false,"messages":[]}`)
}

// Where it is not all to be had, the client is told, with the position from which
// it goes on. A plain client knows no positions and is not.
func TestSubscribeSinceWhatIsNotKept(t *testing.T) {
	t.Parallel()
	var server *live.Server
	opts := livetest.Permissive()
	opts.Topics = livetest.Keeping("", live.TopicOptions{History: 3})
	opts.OnMessage = func(_ context.Context, s *live.Session, topic string, _ []byte) {
		server.Subscribe(s, topic, live.Since(live.Position{Epoch: "bygone", Offset: 7}))
		s.Send(live.Message{Topic: "done"})
	}
	server = livetest.NewServer(t, opts)
	at := livetest.Serve(t, server.Handler())
	livetest.PublishNumbers(t, server, "t", 1, 9)
	c := livetest.DialV1(t, at)
	livetest.Same(t, "first", c.Do(`{"topic":"t"}`).Raw, `{"op":"gap","topic":"t","at":"E.9"}`)
	livetest.Same(t, "then", c.Next().Raw, `{"topic":"done"}`)
	plain := livetest.Dial(t, at)
	livetest.Check(t, "the plain client", plain.Ask(`{"topic":"t"}`), `{"topic":"done"}`)
	server.Publish("t", []byte(`10`))
	c.Hears("t", "10")
	livetest.Check(t, "the plain client", plain.Read(), `{"topic":"t","data":10}`)
}
