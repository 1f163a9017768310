package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// TestMain is a server process when a test starts one.
func TestMain(m *testing.M) {
	registerFaulty()
	registerAwkward()
	runSubcommand()
	if err := server.RaiseFileLimit(); err != nil {
		panic(err)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // or every server process lingers for a second under -race
	os.Exit(m.Run())
}

// faulty does one thing wrong with its tenth publication.
type faulty struct {
	server.Server
	fault func(s server.Server, topic string, data []byte) error
	count atomic.Int64
}

func (f *faulty) Publish(topic string, data []byte) error {
	if f.count.Add(1) == 10 {
		return f.fault(f.Server, topic, data)
	}
	return f.Server.Publish(topic, data)
}

// faults by name, and what the generator says of each.
var faults = []struct {
	name, says string
	fault      func(s server.Server, topic string, data []byte) error
}{
	{"loses", "lost", func(server.Server, string, []byte) error { return nil }},
	{"repeats", "duplicate", func(s server.Server, topic string, data []byte) error {
		return errors.Join(s.Publish(topic, data), s.Publish(topic, data))
	}},
	{"misdirects", "did not subscribe", func(s server.Server, topic string, data []byte) error {
		m, _, _, err := wire.NextMark(data)
		m.Stream++
		return errors.Join(err, s.Publish(topic, wire.AppendPayload(nil, m, len(data))))
	}},
	{"damages", "damaged", func(s server.Server, topic string, data []byte) error {
		return s.Publish(topic, bytes.Replace(data, []byte("xx"), []byte("xy"), 1))
	}},
}

func registerFaulty() {
	for _, f := range faults {
		server.Register(server.Kind{
			Name:    f.name,
			Role:    server.Peer,
			Dialect: wire.Plain,
			New: func(o server.Options) (server.Server, error) {
				floor, _ := server.Lookup("floor")
				s, err := floor.New(o)
				return &faulty{Server: s, fault: f.fault}, err
			},
		})
	}
}

// registerAwkward adds two servers that are not as they should be to who connects.
func registerAwkward() {
	gorilla, _ := server.Lookup("gorilla")
	forgets := gorilla
	forgets.Name = "forgets"
	forgets.New = func(o server.Options) (server.Server, error) {
		o.Topic = ""
		s, err := gorilla.New(o)
		return forgetful{s}, err
	}
	server.Register(forgets)
	hangsUp := gorilla
	hangsUp.Name = "hangs-up"
	hangsUp.New = func(o server.Options) (server.Server, error) {
		s, err := gorilla.New(o)
		return rude{s}, err
	}
	server.Register(hangsUp)
}

// forgetful subscribes nobody, and says that it has.
type forgetful struct{ server.Server }

func (forgetful) Subscriptions() int { return 1 << 20 }

// rude hangs up on every tenth client.
type rude struct{ server.Server }

func (r rude) Serve(l net.Listener) error { return r.Server.Serve(&rudeListener{Listener: l}) }

type rudeListener struct {
	net.Listener
	count int
}

func (l *rudeListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if l.count++; err == nil && l.count%10 == 0 {
		c.Close()
	}
	return c, err
}

var tiny = env{Time: 20 * time.Millisecond, Options: server.Options{Queue: 256}}

func kindOf(t *testing.T, name string) server.Kind {
	t.Helper()
	kind, ok := server.Lookup(name)
	if !ok {
		t.Fatalf("there is no server %q", name)
	}
	return kind
}

func TestBurstArrivesWhole(t *testing.T) {
	b := bursts{audience{Topics: 4, Sessions: 20, Each: 10, Payload: 128}, 32}
	for _, name := range []string{"floor", "gorilla", "centrifuge", "livetopic"} {
		t.Run(name, func(t *testing.T) {
			s, err := setUp(tiny, kindOf(t, name), b.sessions(), b.Payload)
			if err != nil {
				t.Fatal(err)
			}
			defer s.tearDown()
			for i := range 3 {
				usage, err := s.burst(b, i*b.Publications)
				if err != nil {
					t.Fatal(err)
				}
				if usage.CPU <= 0 || usage.Wall <= 0 || usage.RSS <= 0 {
					t.Errorf("burst %d used %+v", i, usage)
				}
			}
			if err := s.load.Quiet(afterQuiet); err != nil {
				t.Error(err)
			}
			if got, want := s.load.Delivered(), uint64(3*32*10); got != want {
				t.Errorf("%d deliveries, want %d", got, want)
			}
		})
	}
}

func TestFaultyServerIsReportedAsFailed(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			err := run([]string{
				"-servers", f.name, "-workloads", "burst", "-burst.n", "5",
				"-time", "20ms", "-rounds", "1", "-out", "",
			}, &stdout, &stderr)
			if !errors.Is(err, errFailed) {
				t.Errorf("error %v, want %v", err, errFailed)
			}
			if want := "FAILED: " + f.name + " (burst): "; !strings.Contains(stdout.String(), want) {
				t.Errorf("the tables do not say %q:\n%s", want, stdout.String())
			}
			if !strings.Contains(stdout.String(), f.says) {
				t.Errorf("the reason does not say %q:\n%s", f.says, stdout.String())
			}
		})
	}
}

func TestLastPublicationLostIsFound(t *testing.T) {
	s, err := setUp(tiny, kindOf(t, "loses"), audience{Topics: 1, Sessions: 3, Each: 3, Payload: 128}.sessions(), 128)
	if err != nil {
		t.Fatal(err)
	}
	defer s.tearDown()
	s.load.Stall = 200 * time.Millisecond
	b := bursts{audience{Topics: 1, Sessions: 3, Each: 3, Payload: 128}, 10}
	if _, err := s.burst(b, 0); err == nil || !strings.Contains(err.Error(), "lost: 27 of 30") {
		t.Errorf("error %v", err)
	}
}

func TestDeliveryTooManyIsFound(t *testing.T) {
	a := audience{Topics: 1, Sessions: 2, Each: 2, Payload: 128}
	s, err := setUp(tiny, kindOf(t, "floor"), a.sessions(), a.Payload)
	if err != nil {
		t.Fatal(err)
	}
	defer s.tearDown()
	if _, err := s.burst(bursts{a, 3}, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.publish(3, 1, 0, 1, a.Payload); err != nil {
		t.Fatal(err)
	}
	if err := s.load.Quiet(2 * time.Second); err == nil {
		t.Error("a publication that nobody expected was not noticed")
	}
}

func TestEveryServerSubscribesGreetsAndSpeaksTLS(t *testing.T) {
	var stdout, stderr bytes.Buffer
	err := run([]string{
		"-servers", "livetopic,mizu,melody,gorilla,gws,coder,centrifuge,floor", "-rounds", "1", "-time", "20ms", "-out", "",
		"-workloads", "connect,storm,burst-tls,single-tls", "-burst.n", "5", "-single.n", "5",
		"-connect.n", "30", "-storm.n", "30", "-storm.auth", "10ms",
	}, &stdout, &stderr)
	if err != nil {
		t.Errorf("%v\n%s%s", err, stderr.String(), stdout.String())
	}
}

func TestSessionThatIsNotSubscribedIsFound(t *testing.T) {
	_, err := arrivals{Sessions: 10, UnderWay: 5}.run(tiny, kindOf(t, "forgets"))
	if err == nil || !strings.Contains(err.Error(), "lost: 0 of 11") {
		t.Errorf("error %v", err)
	}
}

func TestStormCountsWhoIsNotServed(t *testing.T) {
	f, err := arrivals{Sessions: 100, Auth: 10 * time.Millisecond}.run(tiny, kindOf(t, "hangs-up"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Failures != 11 || f.Served < 10e6 || f.P99 < 10e6 || f.Max < f.P99 {
		t.Errorf("figures %+v", f)
	}
}

func TestEveryWorkloadRunsSmall(t *testing.T) {
	page := filepath.Join(t.TempDir(), "RESULTS.md")
	var stdout, stderr bytes.Buffer
	err := run([]string{
		"-servers", "floor,livetopic", "-rounds", "1", "-time", "20ms", "-out", page,
		"-burst.n", "20", "-single.n", "20", "-topics.topics", "5", "-chat.n", "40",
		"-paced.topics", "2", "-paced.rate", "4000", "-paced.time", "100ms",
		"-idle.n", "50", "-idle-tls.n", "50", "-connect.n", "50", "-storm.n", "50",
		"-resume.n", "20", "-resume.missed", "300", "-growth", "10,20", "-growth.n", "20",
		"-slow.n", "10", "-slow.rate", "1000", "-slow.time", "200ms",
	}, &stdout, &stderr)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, stderr.String(), stdout.String())
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## burst:", "## resume:", "## slow:", "![", "burst.svg", "| livetopic |", "| floor |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(page), "burst.svg")); err != nil {
		t.Error(err)
	}
}

func TestAudienceGivesEverySessionItsTopics(t *testing.T) {
	a := audience{Topics: 6, Sessions: 20, Each: 10, Payload: 128}
	heard := map[uint32]int{}
	for i, s := range a.sessions() {
		if len(s.Topics) != 3 || len(s.Streams) != 3 {
			t.Errorf("session %d has %d topics and %d streams", i, len(s.Topics), len(s.Streams))
		}
		for _, stream := range s.Streams {
			heard[stream]++
		}
	}
	for topic := range uint32(a.Topics) {
		if heard[topic] != a.Each {
			t.Errorf("topic %d has %d sessions", topic, heard[topic])
		}
	}
}

func TestChatExpectsTheRoomOnly(t *testing.T) {
	sessions := chat{Sessions: 40, Room: 20, Window: 1, Payload: 128}.sessions()
	got := sessions[25]
	if len(got.Topics) != 1 || got.Topics[0] != wire.TopicName(1) || got.Streams[0] != 20 || got.Streams[19] != 39 {
		t.Errorf("session 25 has %v and %v", got.Topics, got.Streams)
	}
}
