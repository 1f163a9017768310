package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/brokertest"
)

// quiet is a logger for tests in which many errors are expected.
func quiet() *slog.Logger {
	return slog.New(slog.DiscardHandler)
}

// suiteStreams are the streams that the suite needs.
func suiteStreams() []StreamConfig {
	return []StreamConfig{
		{Name: "SHORT", Subjects: []string{"short.>"}, MaxMsgsPerTopic: 10},
		{Name: "LONG", Subjects: []string{"long.>"}, MaxMsgsPerTopic: 1000},
		{Name: "FLEETING", Subjects: []string{"fleeting.>"}, MaxAge: 300 * time.Millisecond},
	}
}

func suiteTopic(name string, o broker.PublishOptions) string {
	switch {
	case o.HistoryAge > 0:
		return "fleeting." + name
	case o.History == 10:
		return "short." + name
	}
	return "long." + name
}

func open(t testing.TB, o Options) *Broker {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := b.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	return b
}

func suiteFeatures(nodes func(t *testing.T, n int) []live.Broker) brokertest.Features {
	return brokertest.Features{History: true, Bus: true, IDs: true, Keys: true, Topic: suiteTopic, Nodes: nodes}
}

func TestEmbeddedInMemory(t *testing.T) {
	brokertest.Run(t, func(t *testing.T) live.Broker {
		return open(t, Options{Streams: suiteStreams()})
	}, brokertest.Features{History: true, IDs: true, Keys: true, Topic: suiteTopic})
}

func TestEmbeddedOnDisk(t *testing.T) {
	brokertest.Run(t, func(t *testing.T) live.Broker {
		return open(t, Options{StoreDir: t.TempDir(), Streams: suiteStreams()})
	}, brokertest.Features{History: true, IDs: true, Topic: suiteTopic, LoseEnd: func(t *testing.T, b live.Broker, topic string) live.Broker {
		br := b.(*Broker)
		_, st := br.streamOf(topic)
		dir := br.server.store.dir
		br.Close(context.Background())
		cutFile(t, filepath.Join(dir, "jetstream", "$G", "streams", st.config.Name, "msgs", "1.blk"), 200)
		return open(t, Options{StoreDir: dir, Streams: suiteStreams()})
	}})
}

// Three nodes in one process stand for three machines. All tests share them. Each test has its
// own subjects and streams.
func TestClusterOfEmbedded(t *testing.T) {
	members := openCluster(t, 3)
	systems := 0
	nodes := func(t *testing.T, n int) []live.Broker {
		systems++
		brokers := make([]live.Broker, n)
		for i := range brokers {
			conn, err := nats.Connect("", members[i].server.connectOptions()...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(conn.Close)
			brokers[i] = open(t, Options{
				Conn:    conn,
				Prefix:  fmt.Sprint("test", systems),
				Streams: systemStreams(systems, 3),
			})
		}
		return brokers
	}
	alone := func(t *testing.T) live.Broker { return tidy{nodes(t, 1)[0].(*Broker)} }
	brokertest.Run(t, alone, suiteFeatures(nodes))
}

// tidy unsubscribes everything when a broker closes, since the shared server goes on and the
// tests count goroutines.
type tidy struct{ *Broker }

func (b tidy) Close(ctx context.Context) error {
	for _, st := range b.streams.every() {
		b.JetStream().DeleteStream(ctx, st.config.Name)
	}
	defer b.NATSConn().Close()
	return b.Broker.Close(ctx)
}

// systemStreams are the suite's streams, with names of their own.
func systemStreams(system, replicas int) []StreamConfig {
	streams := suiteStreams()
	for i := range streams {
		streams[i].Name += fmt.Sprint(system)
		streams[i].Replicas = replicas
	}
	return streams
}

// openCluster starts nodes that know each other.
func openCluster(t testing.TB, n int) []*Broker {
	t.Helper()
	brokers := make([]*Broker, n)
	routes := livetest.FreeAddresses(t, n)
	for i := range brokers {
		b, err := New(Options{
			StoreDir: t.TempDir(),
			Cluster:  &Cluster{Listen: routes[i], Routes: routes},
			Streams:  suiteStreams(),
			Logger:   quiet(),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close(context.Background()) })
		brokers[i] = b
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, b := range brokers {
		if err := b.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return brokers
}

// A server elsewhere is a process of its own. All tests share it. Each test has its own
// subjects and streams.
func TestExternalServer(t *testing.T) {
	url := startProcess(t)
	systems := 0
	nodes := func(t *testing.T, n int) []live.Broker {
		systems++
		brokers := make([]live.Broker, n)
		for i := range brokers {
			brokers[i] = open(t, Options{
				Servers: []string{url},
				Prefix:  fmt.Sprint("test", systems),
				Streams: systemStreams(systems, 1),
			})
		}
		return brokers
	}
	brokertest.Run(t, func(t *testing.T) live.Broker { return nodes(t, 1)[0] }, suiteFeatures(nodes))
}

// startProcess builds a nats-server from the version in go.mod, runs it until the test ends,
// and returns its URL.
func startProcess(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "nats-server")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	server := exec.Command(program, "-js", "-a", "127.0.0.1", "-p", "-1", "-sd", dir, "--ports_file_dir", dir)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nats-server does not say where it listens")
		}
		found, _ := filepath.Glob(filepath.Join(dir, "nats-server_*.ports"))
		if len(found) == 0 {
			continue
		}
		raw, _ := os.ReadFile(found[0])
		var ports struct {
			NATS []string `json:"nats"`
		}
		if json.Unmarshal(raw, &ports) == nil && len(ports.NATS) > 0 {
			return ports.NATS[0]
		}
	}
}

// A goroutine of the broker takes long to end. Close waits no longer than its context lasts,
// and the embedded server is shut down afterwards.
func TestCloseEndsWithItsContext(t *testing.T) {
	b := open(t, Options{StoreDir: t.TempDir()})
	hold := make(chan struct{})
	b.tasks.Go(func() { <-hold })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	before := time.Now()
	if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(before) > patience/2 {
		t.Errorf("after %v: %v", time.Since(before), err)
	}
	if !b.nc.IsConnected() {
		t.Error("the connection is closed while a goroutine may use it")
	}
	close(hold)
	select {
	case <-b.server.stopped:
	case <-time.After(patience):
		t.Fatal("the server is not shut down")
	}
}

// The goroutines of New find out that a stream has lost its end while the live server starts.
// The race detector checks this.
func TestLossWhileTheServerStarts(t *testing.T) {
	b := open(t, Options{})
	lost := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	var telling sync.WaitGroup
	telling.Go(func() { // ends with stop
		for ctx.Err() == nil {
			b.lost("", errEndLost)
		}
	})
	b.Start(firstLost(lost))
	<-lost
	stop()
	telling.Wait()
}

// firstLost is a sink that keeps the first loss.
type firstLost chan error

func (firstLost) Deliver(*broker.Publication) {}
func (f firstLost) Lost(_ string, cause error) {
	select {
	case f <- cause:
	default:
	}
}
