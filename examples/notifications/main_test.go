package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live/livetest"
	"github.com/livetopic/livetopic/live/natsbroker"
)

// serve starts the program. stop ends it in order, as SIGTERM does.
func serve(t *testing.T, store string, step time.Duration) (server *livetest.Server, stop func()) {
	t.Helper()
	broker, err := natsbroker.New(natsbroker.Options{StoreDir: store})
	if err != nil {
		t.Fatal(err)
	}
	a, err := newApp(broker, step)
	if err != nil {
		t.Fatal(err)
	}
	stop = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := a.live.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return livetest.Serve(t, a.routes()), stop
}

func TestProgramsPublishOverHTTP(t *testing.T) {
	server, _ := serve(t, "", time.Hour)
	tab := server.Dial()
	tab.Subscribe("notifications", livetest.Last(50))
	for _, c := range []struct {
		body, token string
		status      int
	}{
		{`{"topic":"notifications","data":"hello"}`, token, 202},
		{`{"topic":"notifications","data":"hello"}`, "wrong", 401},
		{`{"topic":"notifications","data":{}}`, token, 400},
		{`{"topic":"notifications","data":"` + strings.Repeat("x", 501) + `"}`, token, 400},
		{`{"topic":"jobs","data":"hello","key":"x"}`, token, 400},
	} {
		r, err := http.NewRequest("POST", server.URL+"/publish", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+c.token)
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%.60s: %s, want %d", c.body, resp.Status, c.status)
		}
	}
	got := livetest.Await(tab, "notifications", func(n Notification) bool { return n.Text == "hello" })
	if time.Since(got.Time).Abs() > time.Minute {
		t.Errorf("its time is %v", got.Time)
	}
	tab.ExpectNothing()
}

// A job that was under way when the program ended goes on where it was, and is done once.
func TestJobGoesOnAfterARestart(t *testing.T) {
	store := t.TempDir()
	server, stop := serve(t, store, 5*time.Millisecond)
	tab := server.Dial()
	tab.Subscribe("jobs")
	tab.Request("start", nil, nil)
	before := livetest.Await(tab, "jobs", func(j Job) bool { return j.Done >= 3 })
	stop()

	server, _ = serve(t, store, 5*time.Millisecond)
	tab = server.Dial()
	tab.Subscribe("jobs")
	tab.Subscribe("notifications", livetest.Last(50))
	first := livetest.Await(tab, "jobs", func(Job) bool { return true })
	if first.ID != before.ID || first.Done < before.Done {
		t.Errorf("it goes on with %+v, and was at %+v", first, before)
	}
	livetest.Await(tab, "jobs", func(j Job) bool { return j.Done == j.Steps })
	livetest.Await(tab, "notifications", func(n Notification) bool { return n.Text == before.Name+" is done" })
	tab.ExpectNothing()

	tab.Request("clear", nil, nil)
	tab.ExpectRemoved("jobs", before.ID)
}

func TestJobsAreBounded(t *testing.T) {
	server, _ := serve(t, "", time.Hour)
	tab := server.Dial()
	for range 20 {
		tab.Request("start", nil, nil)
	}
	tab.ExpectError("too_many", func() { tab.Request("start", nil, nil) })
	tab.ExpectError("forbidden", func() { tab.Subscribe("elsewhere") })
}
