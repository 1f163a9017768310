package inspector_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestSessionsComeInPagesOfAHundred(t *testing.T) {
	t.Parallel()
	const n = 230
	opts, sessions := named(live.Options{})
	h := livetest.Hosting{}.Start(t, opts)
	for i := range n {
		livetest.Connect(t, h.With(fmt.Sprintf("user=user-%03d", i)), livetest.Dialing{})
		s := livetest.Receive(t, sessions)
		for topic := range i % 3 {
			h.Subscribe(s, fmt.Sprint("topic ", topic))
		}
	}
	p := open(t, h.Server, everything)
	var users []string
	for number, want := range []int{100, 100, 30} {
		page := get[table](p, "sessions", "sort", "user", "page", fmt.Sprint(number))
		if page.Total != n || page.Matched != n || page.Pages != 3 || page.Page != number || len(page.Rows) != want {
			t.Errorf("page %d has %d rows: %d of %d sessions, page %d of %d", number, len(page.Rows), page.Matched, page.Total, page.Page, page.Pages)
		}
		for _, row := range page.Rows {
			users = append(users, row.User)
		}
	}
	if len(users) != n || !slices.IsSorted(users) || len(slices.Compact(users)) != n {
		t.Errorf("the pages have %v", users)
	}
	for _, number := range []string{"3", "99999", "-1", "x"} {
		if page := get[table](p, "sessions", "page", number); page.Page != 2 && page.Page != 0 || len(page.Rows) == 0 {
			t.Errorf("page %s is page %d with %d rows", number, page.Page, len(page.Rows))
		}
	}
	if last := get[table](p, "sessions", "sort", "user", "desc", "1"); last.Rows[0].User != "user-229" {
		t.Errorf("the last user is %q", last.Rows[0].User)
	}
	if found := get[table](p, "sessions", "search", "USER-22"); found.Matched != 10 || found.Total != n {
		t.Errorf("user-220 to user-229 were searched for, and %d of %d found", found.Matched, found.Total)
	}
	if found := get[table](p, "sessions", "search", "nobody"); found.Matched != 0 || found.Rows == nil {
		t.Errorf("nobody was searched for, and found: %+v", found)
	}
	if of := get[table](p, "sessions", "topic", "topic 1"); of.Matched != n/3 {
		t.Errorf("the topic has %d subscribers, want %d", of.Matched, n/3)
	}
	most := get[table](p, "sessions", "sort", "topics", "desc", "1").Rows
	if most[0].Topics != 2 || most[99].Topics < 1 {
		t.Errorf("those with the most topics have %d to %d", most[0].Topics, most[99].Topics)
	}
}

func TestSlowestClientIsTheFirst(t *testing.T) {
	t.Parallel()
	opts, sessions := named(live.Options{Topics: livetest.Keeping("", live.TopicOptions{History: 1000})})
	opts.QueueSize, opts.QueueBytes = 16, 16<<10
	h := livetest.Hosting{Buffer: 8 << 10}.Start(t, opts)
	for _, user := range []string{"ann", "slow", "bob"} {
		c := livetest.Connect(t, h.With("user="+user), livetest.Dialing{V1: true, Buffer: 8 << 10})
		h.Subscribe(livetest.Receive(t, sessions), "t")
		if user == "slow" {
			c.Line.Stall()
		} else {
			c.Attend()
		}
	}
	p := open(t, h.Server, everything)
	var first row
	livetest.Eventually(t, "the slow client is the first, and catches up", func() bool {
		h.PublishNumbers(t, "t", 1, 1, 1000)
		first = get[table](p, "sessions", "sort", "queue", "desc", "1").Rows[0]
		return first.User == "slow" && first.CatchingUp == 1 && first.Bytes > 0
	})
	detail := get[struct {
		row
		Subscriptions []struct {
			Topic, Position string
			CatchingUp      bool
			Behind          uint64
		}
	}](p, "session", "id", first.ID)
	if len(detail.Subscriptions) != 1 || detail.User != "slow" {
		t.Fatalf("the session is %+v", detail)
	}
	if sub := detail.Subscriptions[0]; sub.Topic != "t" || !sub.CatchingUp || sub.Behind == 0 || sub.Position == "" {
		t.Errorf("its subscription is %+v", sub)
	}
	if w := p.serve("GET", "session?id=nobody's", "", nil); w.Code != http.StatusNotFound {
		t.Errorf("an unknown session: %d %s", w.Code, w.Body)
	}
}

// A page of a hundred long names must not take megabytes every two seconds.
func TestLongNamesOfUsersAreCut(t *testing.T) {
	t.Parallel()
	name := "a" + strings.Repeat("ä", 5000) // a cut at an even number of bytes would halve a letter
	opts, sessions := named(live.Options{})
	opts.OnAuth = func(context.Context, *http.Request) (any, error) { return name, nil }
	h := livetest.Hosting{}.Start(t, opts)
	livetest.Connect(t, h.Endpoint, livetest.Dialing{})
	id := livetest.Receive(t, sessions).ID()
	p := open(t, h.Server, everything)
	for _, shown := range []row{get[table](p, "sessions", "search", name[len(name)-10:]).Rows[0], get[row](p, "session", "id", id)} {
		if start, cut := strings.CutSuffix(shown.User, "…"); !cut || len(start) != 255 || !strings.HasPrefix(name, start) {
			t.Errorf("%d bytes are shown: %.300q", len(shown.User), shown.User)
		}
	}
}
