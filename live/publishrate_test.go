package live_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// All clients of a server together publish to a topic at its rate. What is too much is refused, and the
// sessions go on.
func TestPublishRateBoundsAllClientsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := livetest.Open(live.Options{Topics: livetest.Keeping("cursors", live.TopicOptions{PublishRate: 10, PublishBurst: 4})})
		withFalseTime(t, opts, func(t *testing.T, srv *live.Server, dial func() *livetest.Client) {
			a, b := dial(), dial()
			publish := func(c *livetest.Client, topic string) (code string) {
				f := c.Do(livetest.Operation("publish", 1, topic, "data", 1))
				return f.Code
			}
			accepted := func(topic string, tries int) (n int) {
				for i := range tries {
					switch code := publish([]*livetest.Client{a, b}[i%2], topic); code {
					case "":
						n++
					case "rate_limited":
					default:
						t.Fatalf("code %q", code)
					}
				}
				return n
			}
			expect := func(when string, got, want int) {
				if got != want {
					t.Errorf("%s: %d accepted, want %d", when, got, want)
				}
			}
			expect("at once", accepted("cursors", 10), 4)
			expect("of another topic", accepted("cursors2", 10), 4)
			expect("of a topic without a rate", accepted("chat", 20), 20)
			time.Sleep(200 * time.Millisecond)
			expect("after 0.2 s", accepted("cursors", 10), 2)
			time.Sleep(time.Hour)
			expect("after an hour", accepted("cursors", 10), 4)
			if err := srv.Publish("cursors", []byte("1")); err != nil {
				t.Errorf("the application: %v", err)
			}
			if st := srv.Stats(); st.RateLimited != 6+6+8+6 || st.Sessions != 2 {
				t.Errorf("%+v", st)
			}
		})
	})
}

// A client that sends a publication again, because its connection broke before the answer, gets the answer,
// also while the rate allows no other publication.
func TestPublicationThatIsSentAgainIsNotRefused(t *testing.T) {
	t.Parallel()
	opts := livetest.Open(live.Options{Topics: func(topic string) live.TopicOptions {
		o := live.TopicOptions{PublishRate: 1}
		if topic == "kept" {
			o.History = 10
		}
		return o
	}})
	opts.OnAuth = func(context.Context, *http.Request) (any, error) { return "ana", nil }
	h := livetest.Hosting{}.Start(t, opts)
	for topic, again := range map[string]string{"kept": "", "without history": "rate_limited"} {
		c := h.Connect(t, livetest.Dialing{V1: true}).Attend().Greeted()
		first := c.Do(livetest.Operation("publish", 1, topic, "data", 1, "uid", "u"))
		c.Drop()
		c = h.Connect(t, livetest.Dialing{V1: true}).Attend().Greeted()
		livetest.Refused(t, "another publication", c.Do(livetest.Operation("publish", 2, topic, "data", 2, "uid", "v")), 2, "rate_limited")
		f := c.Do(livetest.Operation("publish", 3, topic, "data", 1, "uid", "u"))
		if f.Code != again || f.At != first.At {
			t.Errorf("on topic %q it is answered with %s, and was with %s", topic, f.Raw, first.Raw)
		}
	}
}

// Who may not publish does not use the rate up.
func TestRefusedPublicationsDoNotCountForPublishRate(t *testing.T) {
	t.Parallel()
	opts := livetest.Open(live.Options{Topics: livetest.Keeping("", live.TopicOptions{PublishRate: 1})})
	opts.OnPublish = func(_ context.Context, _ *live.Session, _ string, data []byte) ([]byte, error) {
		if string(data) != "1" {
			return nil, errors.New("no")
		}
		return data, nil
	}
	h := livetest.Hosting{}.Start(t, opts)
	c := h.Connect(t, livetest.Dialing{V1: true}).Attend().Greeted()
	for i := range 5 {
		livetest.Refused(t, "who may not", c.Do(livetest.Operation("publish", i+1, "t", "data", 2)), i+1, "forbidden")
	}
	c.Must(livetest.Operation("publish", 6, "t", "data", 1))
	livetest.Refused(t, "who may", c.Do(livetest.Operation("publish", 7, "t", "data", 1)), 7, "rate_limited")
}
