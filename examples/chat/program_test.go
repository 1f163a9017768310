package main

import (
	"bufio"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live/natsbroker"
)

// The program as a process: what it is asked for on its command line, and what becomes
// of it when it is killed.

// program is one that a test has started.
type program struct {
	t    *testing.T
	args []string
	cmd  *exec.Cmd
	out  *bufio.Reader
	url  string // as it said
}

// start runs the program, which listens on any port that is free, and returns when it
// serves.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	p := prepare(t, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	p.run()
	p.awaitServing()
	return p
}

func prepare(t *testing.T, args ...string) *program {
	p := &program{t: t, args: args}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.end(syscall.SIGKILL)
		}
	})
	return p
}

func (p *program) run() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], p.args...)
	p.cmd.Env = append(os.Environ(), childEnv+"=1")
	p.cmd.Stderr = p.t.Output()
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		p.cmd = nil
		p.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
}

// awaitLine returns what follows a prefix in the next line that has it.
func (p *program) awaitLine(prefix string) string {
	p.t.Helper()
	for {
		line, err := p.out.ReadString('\n')
		if err != nil {
			p.t.Fatalf("the program ended before it said %q: %v", prefix, err)
		}
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			return rest
		}
	}
}

func (p *program) awaitServing() {
	p.t.Helper()
	p.url = p.awaitLine("Chat: ")
	go io.Copy(io.Discard, p.out) // ends with the program
}

// end sends a signal, and returns when the program has ended.
func (p *program) end(signal os.Signal) error {
	p.t.Helper()
	p.cmd.Process.Signal(signal)
	err := p.cmd.Wait()
	p.cmd = nil
	return err
}

func TestHistoryIsThereAfterAKill(t *testing.T) {
	store := t.TempDir()
	p := start(t, "-store", store, "-builds=false")
	ana := open(t, p.url, "ana")
	ana.enter("general", "Ana")
	ana.say("general", "seen", "")
	seen := ana.wantText("seen").At
	ana.say("general", "not seen", "")
	ana.wantText("not seen")
	p.end(syscall.SIGKILL)

	p = start(t, "-store", store, "-builds=false")
	if e := open(t, p.url, "bo").enter("general", "Bo"); texts(e) != "seen not seen" {
		t.Errorf("a newcomer got %q", texts(e))
	}
	again := open(t, p.url, "ana")
	if e := again.ask("subscribe", "room:general", object{"since": seen, "info": info{Name: "Ana"}}); !e.Recovered || texts(e) != "not seen" {
		t.Errorf("who comes back got %q, recovered %v", texts(e), e.Recovered)
	}
	again.say("general", "next", "")
	again.wantText("next")
}

func TestMemoryForgets(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("TMPDIR", t.TempDir()) // since it is killed before it can tidy up
	p := start(t, "-store", "")
	ana := open(t, p.url, "ana")
	ana.enter("general", "Ana")
	ana.say("general", "hello", "")
	ana.wantText("hello")
	p.end(syscall.SIGKILL)
	p = start(t, "-store", "")
	if e := open(t, p.url, "bo").enter("general", "Bo"); len(e.Messages) != 0 {
		t.Errorf("a newcomer got %q", texts(e))
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if found, err := os.ReadDir(home); err != nil || len(found) > 0 {
		t.Errorf("it has left %v, %v", found, err)
	}
}

func TestClusterGoesOnWithoutOne(t *testing.T) {
	t.Parallel()
	routes := livetest.FreeAddresses(t, minNodes)
	var nodes []*program
	for _, route := range routes {
		p := prepare(t, "-addr", "127.0.0.1:0", "-cluster", route, "-routes", strings.Join(routes, ","), "-store", t.TempDir(), "-builds=false")
		p.run()
		nodes = append(nodes, p)
	}
	for _, p := range nodes {
		p.awaitServing()
	}
	ana, bo := open(t, nodes[0].url, "ana"), open(t, nodes[1].url, "bo")
	ana.enter("general", "Ana")
	bo.enter("general", "Bo")
	bo.untilHere("2: Ana Bo")
	ana.say("general", "heard", "")
	seen := ana.wantText("heard").At
	bo.wantText("heard")

	nodes[0].end(syscall.SIGKILL)
	for told := (event{}); told.Op != "reply"; { // as a page does, until there is another leader
		told = bo.ask("request", "say", object{"data": object{"room": "general", "text": "missed", "key": "k1"}})
		if told.Op == "error" && told.Code != "unavailable" {
			t.Fatalf("was told %+v", told)
		}
	}
	again := open(t, nodes[2].url, "ana")
	if e := again.ask("subscribe", "room:general", object{"since": seen}); !e.Recovered || texts(e) != "missed" {
		t.Errorf("who came to another node got %q, recovered %v", texts(e), e.Recovered)
	}

	nodes[0].run()
	nodes[0].awaitServing()
	carl := open(t, nodes[0].url, "carl")
	if e := carl.enter("general", "Carl"); texts(e) != "heard missed" {
		t.Errorf("a newcomer at the node that is back got %q", texts(e))
	}
	carl.say("general", "next", "")
	again.wantText("next")
	carl.wantText("next")
	bo.until(func(e event) bool { return e.Data.Text == "next" }) // he may have heard his own before
}

func TestDemoClusterEndsWithItsProgram(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			p := prepare(t, "-demo-cluster", "-addr", "127.0.0.1:0", "-store", t.TempDir())
			p.run()
			front := "http://" + p.awaitLine("Cluster: http://")
			p.awaitLine("Behind this address")
			p.awaitLine("") // blank
			var urls []string
			for range minNodes {
				url, _, ok := strings.Cut(p.awaitLine("http://"), " ")
				if !ok {
					t.Fatal("no process is named")
				}
				urls = append(urls, "http://"+url)
			}
			bo := open(t, urls[2], "bo")
			bo.enter("general", "Bo")
			if status, answer := publish(t, urls[0], roomPrefix+"general", `{"name":"curl","text":"hi"}`); status != http.StatusAccepted {
				t.Fatal(status, answer)
			}
			bo.wantText("hi")
			ana := open(t, front, "ana")
			if e := ana.enter("general", "Ana"); texts(e) != "hi" {
				t.Errorf("behind the one address is %q", texts(e))
			}
			if err := p.end(signal); err != nil && signal == syscall.SIGINT {
				t.Error(err)
			}
			deadline := time.Now().Add(patience)
			for _, url := range urls {
				for _, err := http.Get(url); err == nil; _, err = http.Get(url) {
					if time.Now().After(deadline) {
						t.Fatalf("%s still answers", url)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
}

func TestFlagsAreUnderstood(t *testing.T) {
	t.Setenv("HOME", "/home/ana")
	t.Setenv("XDG_CACHE_HOME", "/cache")
	const three = "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"
	for _, c := range []struct {
		args  string
		store string
		want  string // an error; "": none
	}{
		{"", "/cache/livetopic-chat/alone", ""},
		{"-store /data", "/data", ""},
		{"-store=", "", ""},
		{"-nats nats://10.0.0.1:4222", "", ""},
		{"-builds=false -addr :80", "/cache/livetopic-chat/alone", ""},
		{"-cluster 127.0.0.1:2 -routes " + three, "/cache/livetopic-chat/node-127.0.0.1-2", ""},
		{"-cluster 127.0.0.1:2 -store /data -routes " + three, "/data", ""},
		{"-demo-cluster", "/cache/livetopic-chat/demo-cluster", ""},
		{"-demo-cluster -store /data", "/data", ""},

		{"localhost:80", "", `"localhost:80" is no flag`},
		{"-nats nats://h -store /data", "", "-store is for the NATS in this program"},
		{"-nats nats://h -store=", "", "-store is for the NATS in this program"},
		{"-nats nats://h -cluster 127.0.0.1:1 -routes " + three, "", "-nats and -cluster exclude each other"},
		{"-routes " + three, "", "there is no -cluster"},
		{"-cluster 127.0.0.1:1", "", "-routes lists 0"},
		{"-cluster 127.0.0.1:1 -routes 127.0.0.1:1,127.0.0.1:2,127.0.0.1:2", "", "-routes lists 2"},
		{"-cluster 127.0.0.1:4 -routes " + three, "", "127.0.0.1:4 is not among them"},
		{"-cluster 127.0.0.1 -routes " + three, "", "no host and port"},
		{"-cluster 10.0.0.1:1 -routes " + three, "", "other machines reach"},
		{"-cluster :1 -routes " + three, "", "other machines reach"},
		{"-cluster 127.0.0.1:1 -store= -routes " + three, "", "-cluster needs a -store"},
		{"-demo-cluster -store=", "", "-demo-cluster needs a -store"},
		{"-demo-cluster -nats nats://h", "", "-demo-cluster chooses"},
		{"-demo-cluster -builds=false", "", "-demo-cluster chooses"},
	} {
		got, err := parse(strings.Fields(c.args), io.Discard)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.args, err)
		case c.want == "" && got.store != c.store:
			t.Errorf("%s: history is kept in %q, want %q", c.args, got.store, c.store)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %s", c.args, err, c.want)
		}
	}
	if _, err := parse([]string{"-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
	if _, err := parse([]string{"-x"}, io.Discard); !errors.As(err, new(errUsage)) {
		t.Errorf("-x: %v", err)
	}
}

func TestStoreInUseIsRefused(t *testing.T) {
	store := t.TempDir()
	serveOn(t, natsbroker.Options{StoreDir: store}, slow)
	err := run(t.Context(), config{addr: "127.0.0.1:0", store: store}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), "-store names another folder") {
		t.Error(err)
	}
}

func TestBuildsCountOn(t *testing.T) {
	chat, _ := serve(t, longGrace)
	chat.show(buildTopic, build{Number: 7, Stage: "Testing", Progress: 60})
	if n := chat.lastBuild(t.Context()); n != 7 {
		t.Errorf("the last build was %d", n)
	}
}
