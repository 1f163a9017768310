package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// A program that is killed is there again, on the same port, and the page is told both.
func TestKilledProgramComesBack(t *testing.T) {
	for _, p := range programs {
		if p.Name != "cursors" {
			continue
		}
		programs = []*program{p} // one is enough
	}
	restartAfter = 100 * time.Millisecond
	binaries, err := build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(binaries)
	server := newServer()
	states := make(chan string, 10)
	if _, err := server.Listen("programs", func(m live.Message) { states <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	next := func() (pid int) {
		select {
		case state := <-states:
			pid, _ = strconv.Atoi(state[len(`{"pid":`) : len(state)-1])
		case <-time.After(30 * time.Second):
			t.Fatal("nothing is told")
		}
		return pid
	}
	site := httptest.NewServer(routes(server))
	defer site.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	p := programs[0]
	p.Port = nextPort(site.Listener.Addr(), 1)
	running.Go(func() { p.keepRunning(ctx, binaries, t.TempDir(), func() { p.tell(server) }) })

	first := next()
	get := func() {
		t.Helper()
		answer, err := http.Get("http://localhost:" + strconv.Itoa(p.Port))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Error(answer.Status)
		}
	}
	get()
	post := func(name string, want int) {
		t.Helper()
		answer, err := http.Post(site.URL+"/kill/"+name, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("killing %s: %s", name, answer.Status)
		}
	}
	post("nobody", http.StatusNotFound)
	post("cursors", http.StatusOK)
	if pid := next(); pid != 0 {
		t.Errorf("killed, and process %d is told", pid)
	}
	if second := next(); second == 0 || second == first {
		t.Errorf("process %d was killed, and then there is process %d", first, second)
	}
	get()
}

// Ctrl-C while the examples are built ends the build, and leaves no folder behind.
func TestBuildThatIsEnded(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := build(ctx); err == nil {
		t.Error("a build that was ended returns no error")
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}
