package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestBalancerLeavesOutANodeThatIsGone(t *testing.T) {
	b := newBalancer()
	var nodes []*httptest.Server
	for _, name := range []string{"one", "two"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, name+" "+r.Host) }))
		defer s.Close()
		nodes = append(nodes, s)
		b.use(&node{}, s.Listener.Addr().String())
	}
	front := httptest.NewServer(b.handler())
	defer front.Close()
	get := func() string {
		t.Helper()
		answer, err := http.Get(front.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		return string(body)
	}
	host := front.Listener.Addr().String()
	if got := get(); got != "one "+host && got != "two "+host {
		t.Errorf("it answers %q, which does not name the host that was asked for", got)
	}
	nodes[0].Close()
	for range 5 {
		if got := get(); got != "two "+host {
			t.Errorf("with one node left it answers %q", got)
		}
	}
	nodes[1].Close()
	if got := get(); got != "" {
		t.Errorf("without a node it answers %q", got)
	}
}

// A node that shuts down or hangs has the fewest connections. Handshakes get to the other node.
func TestBalancerPassesHandshakesOnToANodeThatTakesThem(t *testing.T) {
	b := newBalancer()
	b.transport.ResponseHeaderTimeout = 100 * time.Millisecond
	answers := []http.HandlerFunc{
		func(w http.ResponseWriter, r *http.Request) { http.Error(w, "draining", http.StatusServiceUnavailable) },
		func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "taken") },
	}
	for i, answer := range answers {
		s := httptest.NewServer(answer)
		defer s.Close()
		n := &node{}
		b.use(n, s.Listener.Addr().String())
		b.count(n, 10*i)
	}
	front := httptest.NewServer(b.handler())
	defer front.Close()
	for _, test := range []struct {
		upgrade string
		want    int
	}{{"websocket", http.StatusOK}, {"", http.StatusServiceUnavailable}} {
		r, err := http.NewRequest(http.MethodGet, front.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.upgrade != "" {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", test.upgrade)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != test.want {
			t.Errorf("with the header Upgrade: %q the answer is %d, want %d", test.upgrade, answer.StatusCode, test.want)
		}
	}
}

// The inspector of a node is for this machine. Behind the balancer may be anybody.
func TestBalancerLeadsNobodyToTheInspector(t *testing.T) {
	_, url := serve(t, 0)
	b := newBalancer()
	b.use(&node{}, strings.TrimPrefix(url, "http://"))
	front := httptest.NewServer(b.handler())
	defer front.Close()
	for path, want := range map[string]int{"/": http.StatusOK, inspectPath: http.StatusForbidden, inspectPath + "sessions": http.StatusForbidden} {
		answer, err := http.Get(front.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: %s", path, answer.Status)
		}
	}
}

func TestBalancerGivesToTheNodeWithTheFewest(t *testing.T) {
	b := newBalancer()
	one, two := &node{}, &node{}
	b.use(one, "127.0.0.1:1")
	b.use(two, "127.0.0.1:2")
	b.count(one, 1)
	if b.choices()[0].node != two {
		t.Error("the node without a connection is not the first choice")
	}
	b.count(two, 1)
	b.count(two, 1)
	if b.choices()[0].node != one {
		t.Error("the node with fewer connections is not the first choice")
	}
}
