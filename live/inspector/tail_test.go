package inspector_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// tailed is the answer to a look at a tail.
type tailed struct {
	Topic              string
	Seen, Gaps, Number uint64
	Rows               []struct {
		Number        uint64
		Time          int64
		Position, Key string
		Removed       bool
		Size          int
		Data          *string
		Clipped       bool
	}
}

func follow(p page, topic string, more ...string) tailed {
	p.t.Helper()
	synctest.Wait() // what was published has come
	return get[tailed](p, "tail", append(more, "topic", topic)...)
}

func TestTailShowsAFewOfManyPublications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // so that the tails have ended
		server := livetest.NewServer(t, live.Options{Topics: livetest.Keeping("", live.TopicOptions{History: 10})})
		p := open(t, server, everything)
		publish(t, server, "t", 5)
		if first := follow(p, "t"); first.Seen != 0 || first.Rows == nil || len(first.Rows) != 0 {
			t.Errorf("at the first look: %+v", first)
		}
		publish(t, server, "t", 5000)
		if n := server.Stats().ListenerDropped; n != 0 {
			t.Errorf("to look at a topic counts as a listener that is too slow: %d were dropped", n)
		}
		busy := follow(p, "t")
		if again := follow(p, "t", "after", fmt.Sprint(busy.Number+1_000_000)); len(again.Rows) != 10 {
			t.Errorf("after a number that no publication has yet, %d are shown", len(again.Rows))
		}
		if busy.Seen != 5000 || len(busy.Rows) != 10 || busy.Gaps != 0 {
			t.Errorf("of 5000 publications in a moment %d were seen, and %d are shown; want all, and 10", busy.Seen, len(busy.Rows))
		}
		if first := busy.Rows[0]; first.Size != len(`"hello"`) || !strings.HasSuffix(first.Position, ".6") || first.Time != time.Now().UnixMilli() {
			t.Errorf("the first is %+v", first)
		}
		time.Sleep(time.Second)
		publish(t, server, "t", 3)
		next := follow(p, "t", "after", fmt.Sprint(busy.Number))
		if next.Seen != 5003 || len(next.Rows) != 3 || next.Rows[0].Number != busy.Number+1 {
			t.Errorf("of 3 more: %+v", next)
		}
		if last := follow(p, "t", "after", fmt.Sprint(next.Number)); len(last.Rows) != 0 {
			t.Errorf("nothing more was published, and this is shown: %+v", last.Rows)
		}
	})
}

func TestPayloadsAreHiddenUntilSomebodyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // so that the tails have ended
		server := livetest.NewServer(t, live.Options{Topics: livetest.Keeping("", live.TopicOptions{Keyed: true})})
		p := open(t, server, everything)
		follow(p, "t")
		long := `"` + strings.Repeat("ä", 3000) + `"`
		server.Publish("t", []byte(`"secret"`), live.Key("a"))
		server.Publish("t", []byte(long), live.Key("b"))
		server.Remove("t", "a")
		synctest.Wait()
		for _, row := range follow(p, "t").Rows {
			if row.Data != nil {
				t.Errorf("nobody has asked, and the payload is there: %s", *row.Data)
			}
		}
		rows := follow(p, "t", "payloads", "1").Rows
		if len(rows) != 3 || *rows[0].Data != `"secret"` || rows[0].Key != "a" || rows[0].Clipped {
			t.Fatalf("the rows are %+v", rows)
		}
		if clipped := *rows[1].Data; !rows[1].Clipped || rows[1].Size != len(long) || !strings.HasPrefix(long, clipped) || len(clipped) > 2000 {
			t.Errorf("of %d bytes, called %d, these are shown: %d", len(long), rows[1].Size, len(clipped))
		}
		if !rows[2].Removed {
			t.Errorf("the key was removed: %+v", rows[2])
		}

		hidden := open(t, server, inspector.Options{Insecure: true})
		follow(hidden, "t")
		server.Publish("t", []byte(`"secret"`), live.Key("a"))
		if rows := follow(hidden, "t").Rows; len(rows) != 1 || rows[0].Data != nil {
			t.Errorf("without Allow.Payloads: %+v", rows)
		}
	})
}

// A tail that has ended begins anew. The page goes on to ask for what comes after the last number.
func TestTailThatBeginsAnewShowsWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // so that the tails have ended
		server := livetest.NewServer(t, live.Options{})
		p := open(t, server, everything)
		follow(p, "t")
		publish(t, server, "t", 10)
		before := follow(p, "t")
		time.Sleep(time.Minute)
		if st, known := server.TopicStats("t"); known {
			t.Errorf("nobody has asked for a minute, and the server still follows: %+v", st)
		}
		follow(p, "t", "after", fmt.Sprint(before.Number))
		publish(t, server, "t", 2)
		if rows := follow(p, "t", "after", fmt.Sprint(before.Number)).Rows; len(rows) != 2 {
			t.Errorf("of 2 publications these are shown: %+v", rows)
		}
	})
}

func TestOnlySoManyTopicsAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // so that the tails have ended
		server := livetest.NewServer(t, live.Options{})
		p := open(t, server, everything)
		if w := p.serve("GET", "tail?topic=", "", nil); w.Code != http.StatusBadRequest {
			t.Errorf("no topic: %d %s", w.Code, w.Body)
		}
		for range 2 {
			for i := range 8 {
				follow(p, fmt.Sprint("topic ", i))
			}
		}
		if w := p.serve("GET", "tail?topic=another", "", nil); w.Code != http.StatusTooManyRequests {
			t.Errorf("a ninth topic: %d %s", w.Code, w.Body)
		}
		if n := server.Stats().Topics; n != 8 {
			t.Errorf("%d topics are followed", n)
		}
		time.Sleep(time.Minute)
		follow(p, "another")
	})
}
