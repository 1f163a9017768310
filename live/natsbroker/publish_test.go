package natsbroker

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// A leader may die after it has stored a publication and before it has republished it. The
// second attempt is told that it was stored, and must still reach the subscribers.
func TestStoredButNotSentOnArrives(t *testing.T) {
	t.Parallel()
	in := runInstance(t, 0, open(t, Options{Streams: []StreamConfig{chat}}), nil)
	v := view(t, room, in)
	p := &press{topic: room, name: "p"}
	p.publish(in)
	in.awaitSettled(t)

	js := streamsOf(t, in.broker.server)
	s, err := js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	whole := s.CachedInfo().Config
	mute := whole
	mute.NoAck, mute.RePublish = true, nil
	if _, err := js.UpdateStream(t.Context(), mute); err != nil {
		t.Fatal(err)
	}
	acknowledged := make(chan error, 1)
	go func() { acknowledged <- p.publish(in) }() // ends with PublishTimeout
	stored := func() int { return len(contents(t, in.broker.server, "CHAT", roomStored)) }
	waitFor(t, "the publication to be stored", func() bool { return stored() == 2 })
	if _, err := js.UpdateStream(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	if err := <-acknowledged; err != nil {
		t.Fatal(err)
	}
	all := contents(t, in.broker.server, "CHAT", roomStored)
	began := time.Now()
	v.awaitLast(t, all)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it came after %v", d)
	}
	v.verifyWhole(t, all)
	verifyStored(t, all, p)
}

// fakeStream answers for the stream CHAT at a server without JetStream.
type fakeStream struct {
	t  *testing.T
	nc *nats.Conn
}

func newFakeStream(t *testing.T) (*fakeStream, string) {
	t.Helper()
	s := runServer(t, func(o *server.Options) { o.JetStream = false })
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return &fakeStream{t, nc}, s.ClientURL()
}

// answer answers the requests on a subject, each with the next of the answers and then with the
// last of them. "": no answer.
func (f *fakeStream) answer(subject string, answers ...string) {
	f.t.Helper()
	if _, err := f.nc.Subscribe(subject, func(m *nats.Msg) {
		now := answers[0]
		if len(answers) > 1 {
			answers = answers[1:]
		}
		if now != "" {
			m.Respond([]byte(now))
		}
	}); err != nil {
		f.t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		f.t.Fatal(err)
	}
}

const (
	fakeInfo   = `{"type":"io.nats.jetstream.api.v1.stream_info_response","created":"2026-01-01T00:00:00Z","config":{"name":"CHAT","subjects":["live.s.chat.>"],"metadata":{"livetopic-prefix":"live"}},"state":{"messages":1,"first_seq":1,"last_seq":1}}`
	fakeFull   = `{"error":{"code":500,"err_code":10023,"description":"insufficient resources"}}`
	fakeSealed = `{"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"}}`
)

// A publication that was never sent is not stored, and the error says so, even if NATS did not
// answer at first.
func TestPublicationThatWasNeverSentIsNotStored(t *testing.T) {
	t.Parallel()
	f, url := newFakeStream(t)
	b, err := New(Options{Servers: []string{url}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	b.streams.set(newStream(b, chat))
	f.answer("$JS.API.STREAM.INFO.CHAT", "", fakeFull)
	if _, err = b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{}); !errors.Is(err, ErrFull) {
		t.Errorf("the error is %v", err)
	}
}

// A publication got no answer, and the next attempt is refused. The first attempt may have been
// stored, so the error does not say that it was not.
func TestPublicationWithoutAnAnswerMayBeStored(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]string{"full": fakeFull, "sealed": fakeSealed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, url := newFakeStream(t)
			f.answer("$JS.API.STREAM.INFO.CHAT", fakeInfo)
			f.answer("$JS.API.STREAM.UPDATE.CHAT", fakeInfo)
			f.answer(roomStored, "", refusal)
			b, err := New(Options{Servers: []string{url}, Logger: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { b.Close(context.Background()) })
			b.streams.set(newStream(b, chat))
			_, err = b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
			if errors.Is(err, ErrFull) || errors.Is(err, errNotAccepted) || !errors.Is(err, live.ErrUnavailable) || !strings.Contains(err.Error(), "may have stored") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}
