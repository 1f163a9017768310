package natsbroker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// blocks returns the files with a stream's messages in a store, oldest first.
func blocks(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	for i := 1; ; i++ {
		path := filepath.Join(dir, "jetstream", "$G", "streams", "CHAT", "msgs", strconv.Itoa(i)+".blk")
		if _, err := os.Stat(path); err != nil {
			break
		}
		files = append(files, path)
	}
	if len(files) == 0 {
		t.Fatal("the stream has no files")
	}
	return files
}

// cutFile removes the last bytes of a file.
func cutFile(t *testing.T, path string, bytes int64) {
	t.Helper()
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, max(info.Size()-bytes, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A stream that has lost messages has another epoch after the restart. A stream that has lost
// nothing keeps its epoch, however the process ended.
func TestCutStoreIsAnotherHistory(t *testing.T) {
	const (
		env   = "NATSBROKER_TEST_CUT"
		count = 120 // of 100 KB, which makes two files
	)
	o := func(dir string) Options {
		return Options{StoreDir: dir, Streams: []StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}, MaxMsgsPerTopic: 1000}}}
	}
	if dir := os.Getenv(env); dir != "" {
		b := open(t, o(dir))
		var at live.Position
		for i := range count {
			var err error
			data := fmt.Sprintf(`{"n":%d,"pad":"%s"}`, i, strings.Repeat("x", 100_000))
			if at, err = b.Publish(t.Context(), fmt.Sprint("chat.", i%2), []byte(data), broker.PublishOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		n := (*b.streams.list.Load())[0].noteFile.Load()
		waitFor(t, "the server to have counted", func() bool { return n.known().countedTo == count })
		fmt.Println("ready")
		fmt.Println(at)
		awaitParent()
		return
	}
	type cut struct {
		name   string
		change func(t *testing.T, dir string)
		lost   bool
	}
	last := func(bytes int64) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			files := blocks(t, dir)
			cutFile(t, files[len(files)-1], bytes)
		}
	}
	first := func(bytes int64) func(*testing.T, string) {
		return func(t *testing.T, dir string) { cutFile(t, blocks(t, dir)[0], bytes) }
	}
	cuts := []cut{
		{"nothing", func(*testing.T, string) {}, false},
		{"the index", func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, "jetstream", "$G", "streams", "CHAT", "msgs", "index.db"))
		}, false},
		{"a byte of the last file", last(1), true},
		{"a message of the last file", last(100_100), true},
		{"half of the last file", last(2_000_000), true},
		{"all of the last file", last(1 << 40), true},
		{"the end of the first file", first(250_000), true},
		{"the last file is gone", func(t *testing.T, dir string) {
			files := blocks(t, dir)
			os.Remove(files[len(files)-1])
		}, true},
		{"zeros at the end", func(t *testing.T, dir string) {
			files := blocks(t, dir)
			f, err := os.OpenFile(files[len(files)-1], os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, _ := f.Stat()
			f.WriteAt(make([]byte, 50_000), info.Size()-50_000)
		}, true},
		{"the messages", func(t *testing.T, dir string) {
			os.RemoveAll(filepath.Dir(blocks(t, dir)[0]))
		}, true},
		{"the stream", func(t *testing.T, dir string) {
			os.RemoveAll(filepath.Join(dir, "jetstream"))
		}, true},
		{"the notes", func(t *testing.T, dir string) { os.RemoveAll(filepath.Join(dir, "ends")) }, true},
		{"the power", func(t *testing.T, dir string) { otherBoot(t, filepath.Join(dir, "ends")) }, true},
	}
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for range 3 {
		bytes := 1 + random.Int64N(3_000_000)
		cuts = append(cuts, cut{fmt.Sprint(bytes, " bytes of the last file"), last(bytes), true})
	}
	for _, c := range cuts {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			child := startChildOf(t, "TestCutStoreIsAnotherHistory", env+"="+dir)
			line, err := child.out.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			before, err := live.ParsePosition(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			child.Process.Kill()
			child.Wait()
			c.change(t, dir)

			b := open(t, o(dir))
			for i := range 10 {
				at, err := b.Publish(t.Context(), "chat.0", []byte(strconv.Itoa(i)), broker.PublishOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if lost := at.Epoch != before.Epoch; lost != c.lost {
					t.Fatalf("before it was cut the position was %v, and is %v", before, at)
				}
			}
			b.Close(t.Context())
			// The same again, after a stop.
			at, err := open(t, o(dir)).Last(t.Context(), "chat.0")
			if err != nil || c.lost == (at.Epoch == before.Epoch) {
				t.Errorf("after another start it is %v, %v", at, err)
			}
		})
	}
}

// A store that was restored from a copy has another epoch, though its files are consistent.
func TestRestoredStoreIsAnotherHistory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := Options{StoreDir: dir, Streams: []StreamConfig{chat}}
	publish := func(b *Broker, n int) (at live.Position) {
		t.Helper()
		for range n {
			var err error
			if at, err = b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		return at
	}
	copyStore := func(from, to string) {
		t.Helper()
		os.RemoveAll(to)
		if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
	}
	b := open(t, o)
	publish(b, 20)
	b.Close(t.Context())
	copyStore(dir, dir+".copy")
	b = open(t, o)
	before := publish(b, 10)
	b.Close(t.Context())
	copyStore(dir+".copy", dir)
	after := publish(open(t, o), 20)
	if after.Epoch == before.Epoch {
		t.Errorf("the position was %v, and is %v with other publications", before, after)
	}
}

// Messages are deleted on purpose while nothing is published. That is no damage, whether the
// process then stops or is killed.
func TestDeletedMessagesAreNoDamage(t *testing.T) {
	t.Parallel()
	lowered := Options{Streams: chatStream(StreamConfig{MaxMsgsPerTopic: 2})}
	for name, remove := range map[string]func(t *testing.T, b *Broker, o Options) *Broker{
		"by an administrator": func(t *testing.T, b *Broker, o Options) *Broker {
			there, err := b.js.Stream(t.Context(), "CHAT")
			if err == nil {
				err = there.Purge(t.Context(), jetstream.WithPurgeSubject(roomStored), jetstream.WithPurgeKeep(2))
			}
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		"by EnsureStream": func(t *testing.T, b *Broker, o Options) *Broker {
			if err := b.EnsureStream(t.Context(), lowered.Streams[0]); err != nil {
				t.Fatal(err)
			}
			return b
		},
		"by a lower bound at a start": func(t *testing.T, b *Broker, o Options) *Broker {
			b.Close(t.Context())
			o.Streams = lowered.Streams
			return open(t, o)
		},
	} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", killed: ", killed), func(t *testing.T) {
				o := Options{StoreDir: t.TempDir(), Streams: []StreamConfig{chat}}
				b := open(t, o)
				var before live.Position
				for _, topic := range append([]string{"chat.first"}, strings.Fields(strings.Repeat(room+" ", 20))...) {
					var err error
					if before, err = b.Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{}); err != nil {
						t.Fatal(err)
					}
				}
				noteOf := func(b *Broker) note { return (*b.streams.list.Load())[0].noteFile.Load().known() }
				waitFor(t, "the messages to be counted", func() bool { return noteOf(b).countedTo == 21 })
				b = remove(t, b, o)
				if killed {
					waitFor(t, "the missing messages to be counted", func() bool { return noteOf(b).deleted == 18 })
				}
				b.Close(t.Context())
				if at, err := open(t, o).Last(t.Context(), room); err != nil || at.Epoch != before.Epoch {
					t.Errorf("the position was %v, and is %v, %v", before, at, err)
				}
			})
		}
	}
}

// Only a server that has the only copy of a stream can take missing messages for damage. Other
// servers delete messages while it is down.
func TestMissingMessagesOfOtherServersAreNoDamage(t *testing.T) {
	b := open(t, Options{StoreDir: t.TempDir(), Streams: []StreamConfig{chat}})
	st := (*b.streams.list.Load())[0]
	node := b.server.store.node
	for _, c := range []struct {
		name    string
		copies  int
		cluster *jetstream.ClusterInfo
		damage  bool
	}{
		{"a server that is alone", 1, nil, true},
		{"the only copy is here", 1, &jetstream.ClusterInfo{Leader: node}, true},
		{"the only copy is elsewhere", 1, &jetstream.ClusterInfo{Leader: "another"}, false},
		{"three copies", 3, &jetstream.ClusterInfo{Leader: node, Replicas: []*jetstream.PeerInfo{{}, {}}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			info := &jetstream.StreamInfo{Config: jetstream.StreamConfig{Replicas: c.copies}, Cluster: c.cluster,
				State: jetstream.StreamState{LastSeq: 100, NumDeleted: 10}}
			n, err := st.renote(note{sequence: 100}, info)
			if err != nil {
				t.Fatal(err)
			}
			info.State.NumDeleted = 20
			if _, why, err := st.compareNote(t.Context(), info, false); err != nil || (why != "") != c.damage {
				t.Errorf("noted %+v, and 20 are missing: %q, %v", n.known(), why, err)
			}
		})
	}
}

// The node of a cluster that has the only copy of a stream counts its missing messages. The other
// nodes do not.
func TestNodeWithTheOnlyCopyCounts(t *testing.T) {
	t.Parallel()
	nodes := openCluster(t, 3)
	one := StreamConfig{Name: "ONE", Subjects: []string{"one.>"}, Replicas: 1}
	for _, b := range nodes {
		if err := b.EnsureStream(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		for _, topic := range []string{"one.a", "one.b"} {
			if _, err := nodes[0].Publish(t.Context(), topic, []byte("1"), broker.PublishOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	there, err := nodes[0].js.Stream(t.Context(), "ONE")
	if err != nil {
		t.Fatal(err)
	}
	if err := there.Purge(t.Context(), jetstream.WithPurgeSubject("live.s.one.b")); err != nil {
		t.Fatal(err)
	}
	info, err := there.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range nodes {
		known := func() note {
			_, st := b.streamOf("one.a")
			return st.noteFile.Load().known()
		}
		if b.server.store.node == info.Cluster.Leader {
			waitFor(t, "the node with the copy to count", func() bool { return known().deleted == uint64(info.State.NumDeleted) })
		} else if got := known(); got.deleted != 0 || got.countedTo != 0 {
			t.Errorf("a node without a copy has counted: %+v", got)
		}
	}
	if info.State.NumDeleted == 0 {
		t.Error("no message is missing")
	}
}

// renote begins the stream's note again, as a process before this one has left it.
func (st *stream) renote(first note, info *jetstream.StreamInfo) (*noteFile, error) {
	n := st.noteFile.Swap(nil)
	if n == nil {
		n, _, _ = st.broker.server.notes().open(st.config.Name)
	}
	first.countedTo, first.deleted = st.countOf(info)
	return n, n.begin(first)
}

// elsewhere is a NATS server that a test stops and starts with one address and store.
type elsewhere struct {
	dir  string
	port int // 0: not chosen yet
	srv  *server.Server
}

func (e *elsewhere) start(t *testing.T) {
	t.Helper()
	if e.port == 0 {
		e.port = livetest.FreePort(t)
	}
	e.srv = runServer(t, func(o *server.Options) { o.Port, o.StoreDir = e.port, e.dir })
}

func (e *elsewhere) stop() {
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
}

// lose removes the newest publications from the store.
func (e *elsewhere) lose(t *testing.T) {
	t.Helper()
	files := blocks(t, e.dir)
	os.Remove(filepath.Join(filepath.Dir(files[0]), "index.db"))
	cutFile(t, files[len(files)-1], 700)
}

// A NATS elsewhere loses the end of a stream. It gives the lost sequences again before the
// broker looks, or does not.
func TestNATSThatLostItsEnd(t *testing.T) {
	t.Parallel()
	for _, published := range []int{0, 3, 40} {
		t.Run(fmt.Sprint(published, " published before the broker is back"), func(t *testing.T) { loseEnd(t, published) })
	}
}

func loseEnd(t *testing.T, published int) {
	e := &elsewhere{dir: t.TempDir()}
	e.start(t)
	b := open(t, Options{Servers: []string{e.srv.ClientURL()}, Streams: []StreamConfig{chat}})
	in := runInstance(t, 0, b, nil)
	p := &press{topic: room, name: "before"}
	for range 30 {
		p.publish(in)
	}
	v := view(t, room, in)
	p.publish(in)
	waitFor(t, "the viewer", func() bool { return offsetOf(v.position()) == 31 })
	before := v.position()
	v.hangUp()
	<-v.ended

	e.stop()
	st := (*b.streams.list.Load())[0]
	waitFor(t, "the broker to doubt what it has seen", func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.proof.mustCompare
	})
	e.lose(t)
	hold := make(chan struct{})
	go func() { // most likely before the broker is back
		defer close(hold)
		e.start(t)
		nc, err := nats.Connect(e.srv.ClientURL())
		if err != nil {
			t.Error(err)
			return
		}
		defer nc.Close()
		js, _ := jetstream.New(nc)
		for i := range published {
			if _, err := js.Publish(t.Context(), roomStored, []byte(strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		}
	}()
	<-hold
	waitFor(t, "the broker", func() bool { return b.health() == nil })
	if at, err := b.Last(t.Context(), room); err != nil || at.Epoch == epochOf(before) {
		t.Fatalf("the position is %v, %v, and was %v", at, err, before)
	}
	v.mustConnect(t, in)
	again := &press{topic: room, name: "again"}
	again.publish(in)
	all := contentsBy(t, b.js, "CHAT", roomStored)
	// Its position of the other epoch may be higher than all that is stored, so the gap is awaited first.
	waitFor(t, "the viewer to be told of a gap", func() bool { return v.gaps() > 0 })
	v.awaitLast(t, all)
	if v.gaps() != 1 {
		t.Errorf("the viewer was told of %d gaps", v.gaps())
	}
}

// A NATS elsewhere restarts, and has lost nothing. The epoch stays if the broker still runs. If
// no broker runs, nobody can tell, and the epoch changes.
func TestNATSThatIsStartedAnew(t *testing.T) {
	t.Parallel()
	e := &elsewhere{dir: t.TempDir()}
	e.start(t)
	o := Options{Servers: []string{e.srv.ClientURL()}, Streams: []StreamConfig{chat}}
	b := open(t, o)
	at, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	epoch := func(b *Broker) (epoch string) {
		t.Helper()
		waitFor(t, "the stream", func() bool {
			at, err := b.Last(t.Context(), room)
			epoch = at.Epoch
			return err == nil
		})
		return epoch
	}
	newcomer := func() string {
		t.Helper()
		b := open(t, o)
		defer b.Close(t.Context())
		return epoch(b)
	}
	if got := newcomer(); got != at.Epoch {
		t.Errorf("a second broker: epoch %s, not %s", got, at.Epoch)
	}
	b.Start(discard{})
	e.stop()
	e.start(t)
	waitFor(t, "the broker to note what it has seen", func() bool {
		there, err := b.js.Stream(t.Context(), "CHAT")
		return err == nil && there.CachedInfo().Config.Metadata[metaServer] == e.srv.ID()
	})
	if got := epoch(b); got != at.Epoch {
		t.Errorf("the broker that was there: epoch %s, not %s", got, at.Epoch)
	}
	if got := newcomer(); got != at.Epoch {
		t.Errorf("a broker after it: epoch %s, not %s", got, at.Epoch)
	}
	b.Close(t.Context())
	e.stop()
	e.start(t)
	if got := newcomer(); got == at.Epoch {
		t.Error("nobody was there, and the epoch is the same")
	}
}

// An instance starts together with its NATS, and connects before the instances that have seen the
// stream. It lets them say that the stream is whole.
func TestNewcomerWaitsForThoseThatHaveSeenTheStream(t *testing.T) {
	e := &elsewhere{dir: t.TempDir()}
	e.start(t)
	proxy := newLink(t, strings.TrimPrefix(e.srv.ClientURL(), "nats://"))
	b := open(t, Options{Servers: []string{"nats://" + proxy.addr()}, Streams: []StreamConfig{chat}})
	b.Start(discard{})
	at, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	proxy.set(linkCut)
	e.stop()
	e.start(t)
	newcomer := connectingTo(t, e.srv.ClientURL())
	proxy.set(linkOK)
	for name, b := range map[string]*Broker{"the newcomer": newcomer, "the instance before it": b} {
		var now live.Position
		waitFor(t, "a position", func() bool { now, err = b.Last(t.Context(), room); return err == nil })
		if now.Epoch != at.Epoch {
			t.Errorf("%s is at %v, and the publication was at %v", name, now, at)
		}
	}
}

// A stream cannot be asked yet when NATS is back. When it answers at last, the broker notes that it is
// whole, even if no client asks for the stream.
func TestStreamThatAnswersLateIsCompared(t *testing.T) {
	t.Parallel()
	e := &elsewhere{dir: t.TempDir()}
	e.start(t)
	b := open(t, Options{Servers: []string{e.srv.ClientURL()}, Streams: []StreamConfig{chat}})
	b.Start(discard{})
	e.stop()
	s := runServer(t, func(o *server.Options) { o.Port, o.JetStream = e.port, false })
	asked := make(chan struct{}, 1)
	spy := jetStreamOf(t, s.ClientURL()).Conn()
	if _, err := spy.Subscribe("$JS.API.STREAM.INFO.CHAT", func(m *nats.Msg) {
		m.Respond([]byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`))
		select {
		case asked <- struct{}{}:
		default:
		}
	}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-asked:
	case <-time.After(patience):
		t.Fatal("the broker did not ask")
	}
	spy.Close()
	if err := s.EnableJetStream(&server.JetStreamConfig{StoreDir: e.dir}); err != nil {
		t.Fatal(err)
	}
	js := jetStreamOf(t, s.ClientURL())
	waitFor(t, "the broker to note what it has seen", func() bool {
		there, err := js.Stream(t.Context(), "CHAT")
		return err == nil && there.CachedInfo().Config.Metadata[metaServer] == s.ID()
	})
}

// connectingTo returns a broker that has asked for its stream, and need not be ready.
func connectingTo(t *testing.T, url string) *Broker {
	t.Helper()
	b, err := New(Options{Servers: []string{url}, Streams: []StreamConfig{chat}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close(context.Background()) })
	waitFor(t, "the first answer", func() bool { return (*b.streams.list.Load())[0].makeErr.Load() != nil })
	return b
}

// The message that was seen last is missing. The messages before it, and the clock of the server,
// tell whether its sequence was given again. If the clock was set back, that is assumed.
func TestMissingMessageMayBeAnother(t *testing.T) {
	f, url := newFakeStream(t)
	b := open(t, Options{Servers: []string{url}})
	st := newStream(b, chat)
	seenAt := time.Unix(1000, 0).UTC()
	var messages atomic.Pointer[map[uint64]int] // seconds from seenAt, by sequence
	if _, err := f.nc.Subscribe("$JS.API.STREAM.MSG.GET.CHAT", func(m *nats.Msg) {
		var ask getRequest
		if err := json.Unmarshal(m.Data, &ask); err != nil {
			t.Error(err)
		}
		for sequence := ask.Sequence; sequence <= 120; sequence++ {
			if seconds, ok := (*messages.Load())[sequence]; ok {
				stored, _ := seenAt.Add(time.Duration(seconds) * time.Second).MarshalText()
				m.Respond(fmt.Appendf(nil, `{"message":{"seq":%d,"time":"%s"}}`, sequence, stored))
				return
			} else if ask.NextFor == "" {
				break
			}
		}
		m.Respond([]byte(`{"error":{"code":404,"err_code":10037,"description":"no message found"}}`))
	}); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		messages map[uint64]int
		now      int // the clock of the server, in seconds from seenAt
		other    bool
	}{
		{"it is there", map[uint64]int{100: 0}, 60, false},
		{"another is there", map[uint64]int{100: 1}, 60, true},
		{"deleted on purpose", map[uint64]int{50: -9, 98: -2, 99: -1, 101: 5}, 60, false},
		{"all were deleted", nil, 60, false},
		{"stored after a loss", map[uint64]int{98: 8, 99: 9}, 60, true},
		{"stored after a loss of fewer messages", map[uint64]int{50: -9, 90: -5, 99: 9}, 60, true},
		{"stored after a loss, with the clock set back", map[uint64]int{90: -5, 95: -500, 99: -490}, 60, true},
		{"the clock is still set back", map[uint64]int{99: -1}, -60, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			messages.Store(&c.messages)
			info := &jetstream.StreamInfo{TimeStamp: seenAt.Add(time.Duration(c.now) * time.Second)}
			if other, err := st.isOther(t.Context(), info, 100, seenAt); err != nil || other != c.other {
				t.Errorf("it is another: %v, %v", other, err)
			}
		})
	}
}

// elsewhereCluster are three NATS servers that a test stops and starts.
type elsewhereCluster struct {
	dirs  [3]string
	ports [3]int // of the clients
	addrs []string
	srvs  [3]*server.Server
}

func newElsewhereCluster(t *testing.T) *elsewhereCluster {
	c := &elsewhereCluster{addrs: livetest.FreeAddresses(t, 3)}
	for i := range c.dirs {
		c.dirs[i], c.ports[i] = t.TempDir(), livetest.FreePort(t)
	}
	c.start(t)
	return c
}

func (c *elsewhereCluster) start(t *testing.T) {
	t.Helper()
	for i := range c.srvs {
		c.srvs[i] = runServer(t, func(o *server.Options) {
			o.ServerName, o.StoreDir, o.Port = fmt.Sprint("n", i), c.dirs[i], c.ports[i]
			host, port, _ := net.SplitHostPort(c.addrs[i])
			o.Cluster.Name, o.Cluster.Host = "elsewhere", host
			o.Cluster.Port, _ = strconv.Atoi(port)
			o.Routes = server.RoutesFromStr("nats://" + strings.Join(c.addrs, ",nats://"))
		})
	}
}

func (c *elsewhereCluster) stop() {
	for _, s := range c.srvs {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

func (c *elsewhereCluster) options() Options {
	var urls []string
	for _, s := range c.srvs {
		urls = append(urls, s.ClientURL())
	}
	return Options{Servers: urls, Streams: chatStream(StreamConfig{Replicas: 3})}
}

// All servers of a NATS elsewhere restart. Nobody can tell whether they have lost the end of a
// stream, unless an instance of the application has seen it. As long as one node leads, or an
// instance runs, the epoch stays.
func TestClusterThatIsStartedAnew(t *testing.T) {
	t.Parallel()
	c := newElsewhereCluster(t)
	b := open(t, c.options())
	b.Start(discard{})
	first, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	epoch := func(b *Broker) (epoch string) {
		t.Helper()
		waitFor(t, "a position", func() bool {
			at, err := b.Last(t.Context(), room)
			epoch = at.Epoch
			return err == nil
		})
		return epoch
	}
	leader := func() string {
		there, err := b.js.Stream(t.Context(), "CHAT")
		if err != nil || there.CachedInfo().Cluster.LeaderSince == nil {
			return ""
		}
		return there.CachedInfo().Cluster.LeaderSince.String()
	}

	before := leader()
	stepDown(t, b)
	waitFor(t, "another leader", func() bool { now := leader(); return now != "" && now != before })
	newcomer := open(t, c.options())
	if got := epoch(newcomer); got != first.Epoch {
		t.Errorf("another leader, and an instance that knows of it: epoch %s, not %s", got, first.Epoch)
	}
	newcomer.Close(t.Context())
	b.Close(t.Context())
	b = open(t, c.options())
	b.Start(discard{})
	if got := epoch(b); got != first.Epoch {
		t.Errorf("the instance restarts: epoch %s, not %s", got, first.Epoch)
	}
	c.stop()
	c.start(t)
	if got := epoch(b); got != first.Epoch {
		t.Errorf("the servers restart while an instance runs: epoch %s, not %s", got, first.Epoch)
	}
	b.Close(t.Context())
	c.stop()
	c.start(t)
	b = open(t, c.options())
	if got := epoch(b); got == first.Epoch {
		t.Error("the servers restart while no instance runs, and the epoch is the same")
	}

	// Another instance brings the ended epoch back. No client asks for the stream.
	present := configOf(t, b.js, "CHAT")
	ended := present
	ended.Metadata = maps.Clone(ended.Metadata)
	delete(ended.Metadata, metaEpoch)
	if _, err := b.js.UpdateStream(t.Context(), ended); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a third epoch", func() bool {
		now := configOf(t, b.js, "CHAT").Metadata[metaEpoch]
		return now != "" && now != present.Metadata[metaEpoch]
	})
}

// stepDown makes the leader of the stream CHAT give up.
func stepDown(t *testing.T, b *Broker) {
	t.Helper()
	m, err := b.nc.Request("$JS.API.STREAM.LEADER.STEPDOWN.CHAT", nil, patience)
	if err != nil || strings.Contains(string(m.Data), `"error"`) {
		t.Fatalf("%v, %s", err, m.Data)
	}
}

// Messages that arrive after a reconnect do not hide what was seen before.
func TestProofIsKeptUntilItIsCompared(t *testing.T) {
	p := proof{}
	before, after := time.Now(), time.Now().Add(time.Second)
	p.saw(30, before)
	p.mustCompare = true
	p.saw(31, after)
	if p.timedSequence != 30 || !p.timedAt.Equal(before) {
		t.Errorf("%d at %v", p.timedSequence, p.timedAt)
	}
}

// A publication gets a sequence that was already seen. So the stream has lost its end, even if
// it is longer again.
func TestSequenceThatIsGivenTwice(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{chat}})
	var at live.Position
	for range 5 {
		var err error
		if at, err = b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	st := (*b.streams.list.Load())[0]
	if now := st.acknowledged(t.Context(), seen{at.Epoch, 2, time.Now()}, 3); now.Epoch != at.Epoch {
		t.Errorf("a sequence that is new: %v, then %v", at, now)
	}
	if now := st.acknowledged(t.Context(), seen{at.Epoch, 4, time.Now()}, 3); now.Epoch == at.Epoch {
		t.Errorf("a sequence that was seen: %v, then %v", at, now)
	}
}

// A sequence of the present epoch was given twice. A late report for another epoch does not hide
// that.
func TestLateReportHidesNoReusedSequence(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{chat}})
	before, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	st := (*b.streams.list.Load())[0]
	st.givenTwice(before.Epoch)
	st.givenTwice("ended")
	if now, err := b.Last(t.Context(), room); err != nil || now.Epoch == before.Epoch {
		t.Errorf("the position was %v, and is %v, %v", before, now, err)
	}
}

// A stream has another message at the last sequence that an earlier process saw. So it has
// another epoch, even if it is as long as before.
func TestOtherMessageThanNoted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	o := Options{StoreDir: dir, Streams: []StreamConfig{chat}}
	b := open(t, o)
	var at live.Position
	for range 3 {
		var err error
		if at, err = b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	there, err := b.js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	m, err := there.GetMsg(t.Context(), 3)
	if err != nil {
		t.Fatal(err)
	}
	b.Close(t.Context())
	for _, c := range []struct {
		stored time.Time
		lost   bool
	}{{m.Time, false}, {m.Time.Add(time.Nanosecond), true}} {
		e, err := openNotes(filepath.Join(dir, "ends"), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := openNote(t, e)
		if err := n.begin(note{sequence: 3, timedSequence: 3, timedAt: c.stored.UnixNano(), countedTo: 3}); err != nil {
			t.Fatal(err)
		}
		if err := e.close(dir); err != nil {
			t.Fatal(err)
		}
		b := open(t, o)
		if now, err := b.Last(t.Context(), room); err != nil || (now.Epoch != at.Epoch) != c.lost {
			t.Errorf("it was stored %v after it was: %v, then %v, %v", c.stored.Sub(m.Time), at, now, err)
		}
		b.Close(t.Context())
	}
}

// Another program replaces the stream while the broker runs. The broker writes nothing into the
// new stream.
func TestNothingIsNotedInAStrangersStream(t *testing.T) {
	s := startServer(t)
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: []StreamConfig{chat}})
	if err := b.js.DeleteStream(t.Context(), "CHAT"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "CHAT", Subjects: []string{"theirs"}}); err != nil {
		t.Fatal(err)
	}
	st := (*b.streams.list.Load())[0]
	if _, err := st.stateSince(t.Context(), time.Now()); !errors.Is(err, ErrNotOurs) {
		t.Errorf("the stream is asked for: %v", err)
	}
	if is := configOf(t, b.js, "CHAT"); is.Metadata[metaServer] != "" || is.Metadata[metaEpoch] != "" {
		t.Errorf("it has %v", is.Metadata)
	}
}

// A stream is deleted and made again while the broker runs. The next process does not take the
// shorter stream for one that has lost its end.
func TestStreamThatIsMadeAgainIsNoLoss(t *testing.T) {
	o := Options{StoreDir: t.TempDir(), Streams: []StreamConfig{chat}}
	b := open(t, o)
	b.Start(discard{})
	publish := func() live.Position {
		t.Helper()
		at, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for range 20 {
		publish()
	}
	old := time.Now()
	if err := b.js.DeleteStream(t.Context(), "CHAT"); err != nil {
		t.Fatal(err)
	}
	st := (*b.streams.list.Load())[0]
	st.triedAt = time.Time{} // it may be made again at once
	before := publish()
	st.saw(20, old) // a delivery of the deleted stream comes late
	if known := st.noteFile.Load().known(); known.sequence != 1 || st.newestSeen().sequence != 1 {
		t.Errorf("the note is %+v, and %d was seen", known, st.newestSeen().sequence)
	}
	waitFor(t, "the messages to be counted", func() bool { return st.noteFile.Load().known().countedTo == 1 })
	b.Close(t.Context())
	if now, err := open(t, o).Last(t.Context(), room); err != nil || now != before {
		t.Errorf("after another start the position is %v, %v, and was %v", now, err, before)
	}
}

// The state expires, or a comparison is required, while an answer is on its way. That answer
// settles nothing. An answer of an epoch that has ended, which comes late, changes nothing.
func TestAnswersThatComeTooLate(t *testing.T) {
	b := open(t, Options{Streams: []StreamConfig{chat}})
	b.Start(discard{})
	for range 3 {
		if _, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	st := (*b.streams.list.Load())[0]
	ask := func() (seen, *jetstream.StreamInfo) {
		t.Helper()
		asked := st.newestSeen()
		there, err := b.js.Stream(t.Context(), "CHAT")
		if err != nil {
			t.Fatal(err)
		}
		return asked, there.CachedInfo()
	}
	settle := func(asked seen, info *jetstream.StreamInfo) {
		t.Helper()
		info, err := st.compare(t.Context(), info, &asked, false)
		if err != nil {
			t.Fatal(err)
		}
		st.learn(info, asked.askedAt)
	}
	settled := func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return !st.proof.mustCompare
	}

	asked, info := ask()
	st.expireState()
	settle(asked, info)
	if _, ok := st.knownSince(time.Time{}); ok {
		t.Error("an answer from before the state expired is used")
	}
	asked, info = ask()
	st.requireComparison()
	settle(asked, info)
	if _, ok := st.knownSince(time.Time{}); ok || settled() {
		t.Errorf("a comparison was required after the question, and the answer is used: %v, %v", ok, settled())
	}
	settle(ask())
	if _, ok := st.knownSince(time.Time{}); !ok || !settled() {
		t.Errorf("an answer that is new enough is used: %v, %v", ok, settled())
	}

	asked, info = ask()
	st.givenTwice(st.newestSeen().epoch)
	now, err := b.Last(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	st.saw(3, time.Now())
	info.State.LastSeq = 1
	st.learn(info, asked.askedAt)
	if known := st.newestSeen(); known.epoch != now.Epoch || known.sequence != 3 || st.proof.timedSequence != 3 {
		t.Errorf("after an answer of the ended epoch %+v and %+v are known", known, st.proof)
	}
}

// An answer of an epoch that has ended comes late, or a leader that is behind gives it. It does
// not replace what is known of the epoch that came after, whichever node has begun that epoch.
func TestAnswersOfAnEndedEpochChangeNothing(t *testing.T) {
	answer := func(epoch string, last uint64) *jetstream.StreamInfo {
		return &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Metadata: map[string]string{metaEpoch: epoch}},
			State:  jetstream.StreamState{LastSeq: last, Msgs: last},
		}
	}
	st := &stream{memory: newMemory()}
	now := time.Now()
	st.learn(answer("first", 5), now)
	st.learn(answer("second", 100), now.Add(2*time.Second))
	known := st.newestSeen()
	for name, late := range map[string]struct {
		answer *jetstream.StreamInfo
		asked  time.Time
	}{
		"of the ended epoch, asked for before": {answer("first", 50), now.Add(time.Second)},
		"of the ended epoch, asked for later":  {answer("first", 50), now.Add(3 * time.Second)},
		"of an unknown epoch":                  {answer("third", 50), now.Add(time.Second)},
	} {
		st.learn(late.answer, late.asked)
		if got := st.newestSeen(); got.epoch != known.epoch || got.sequence != known.sequence {
			t.Errorf("%s: %+v, want %+v", name, got, known)
		}
	}
}

// NATS does not answer a question about a stream. Others who wait for the same answer wait no
// longer than their context lasts, and Close does not wait either. A publication needs no new
// answer.
func TestWaitersForAStreamHaveTheirOwnTime(t *testing.T) {
	b := open(t, Options{StoreDir: t.TempDir(), Streams: []StreamConfig{chat}})
	b.Start(discard{})
	st := (*b.streams.list.Load())[0]
	for name, held := range map[string]turn{"asking": st.asking, "comparing": st.comparing} {
		if err := held.take(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{}); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := st.stateSince(ctx, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while %s is held: %v", name, err)
		}
		cancel()
		held.leave()
	}
	if _, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := st.asking.take(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer st.asking.leave()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	before := time.Now()
	b.Close(ctx)
	if took := time.Since(before); took > patience/2 {
		t.Errorf("Close took %v", took)
	}
	<-b.server.stopped // before the folder is removed
}

type discard struct{}

func (discard) Deliver(*broker.Publication) {}
func (discard) Lost(string, error)          {}

// An older configuration brings an ended epoch back into the metadata. The epoch stays ended.
func TestEndedEpochStaysEnded(t *testing.T) {
	b := open(t, Options{StoreDir: t.TempDir(), Streams: []StreamConfig{chat}})
	st := (*b.streams.list.Load())[0]
	first, err := b.Publish(t.Context(), room, []byte("1"), broker.PublishOptions{})
	if err != nil {
		t.Fatal(err)
	}
	there, err := b.js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	st.mu.Lock()
	st.proof.sequenceReused = true
	st.mu.Unlock()
	st.expireState()
	second, err := b.Last(t.Context(), room)
	if err != nil || second.Epoch == first.Epoch {
		t.Fatalf("%v, then %v, %v", first, second, err)
	}
	if _, err := b.js.UpdateStream(t.Context(), there.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	st.expireState()
	third, err := b.Last(t.Context(), room)
	if err != nil || third.Epoch == first.Epoch || third.Epoch == second.Epoch {
		t.Errorf("%v, then %v, then %v, %v", first, second, third, err)
	}
}

// Two instances change the metadata at once. The later one does not undo the epoch that the
// earlier one has begun.
func TestMetadataOfAnotherEpochIsNotWritten(t *testing.T) {
	s := startServer(t)
	o := Options{Servers: []string{s.ClientURL()}, Streams: []StreamConfig{chat}}
	a, b := open(t, o), open(t, o)
	st := (*b.streams.list.Load())[0]
	there, err := b.js.Stream(t.Context(), "CHAT")
	if err != nil {
		t.Fatal(err)
	}
	before := there.CachedInfo()
	ender := (*a.streams.list.Load())[0]
	ender.givenTwice(ender.newestSeen().epoch)
	if _, err := a.Last(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	after := configOf(t, b.js, "CHAT").Metadata[metaEpoch]
	if _, err := st.setMeta(t.Context(), before, map[string]string{metaServer: "x"}); after == "" || !errors.Is(err, live.ErrUnavailable) {
		t.Errorf("after epoch %q began: %v", after, err)
	}
	if is := configOf(t, b.js, "CHAT").Metadata; is[metaEpoch] != after || is[metaServer] == "x" {
		t.Errorf("the metadata is %v", is)
	}
}

// Another instance brings an ended epoch back into the metadata. The instance that has ended it
// finds that, even if no client asks for the stream.
func TestEpochThatIsBroughtBackIsFound(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	b := open(t, Options{Servers: []string{s.ClientURL()}, Streams: []StreamConfig{chat}})
	before := configOf(t, b.js, "CHAT")
	st := (*b.streams.list.Load())[0]
	st.givenTwice(st.newestSeen().epoch)
	if _, err := b.Last(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	if _, err := b.js.UpdateStream(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another epoch", func() bool { return configOf(t, b.js, "CHAT").Metadata[metaEpoch] != "" })
}

// In a cluster a leader that was just elected may not know the newest epoch yet. Its answer is
// believed only if it lasts.
func TestEpochThatIsSetBackMustLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alone := &jetstream.StreamInfo{Cluster: &jetstream.ClusterInfo{Leader: "a"}}
		cluster := &jetstream.StreamInfo{Cluster: &jetstream.ClusterInfo{Leader: "a", Replicas: []*jetstream.PeerInfo{{}, {}}}}
		ask := func(st *stream, info *jetstream.StreamInfo) (string, error) {
			return st.compareProof(t.Context(), info, seen{askedAt: time.Now()})
		}
		ended := func(info *jetstream.StreamInfo) *stream {
			st := &stream{memory: newMemory()}
			st.beginEpoch(st.epochOf(info), time.Now())
			time.Sleep(time.Second)
			return st
		}
		if why, err := ask(ended(alone), alone); why == "" || err != nil {
			t.Errorf("a server that is alone: %q, %v", why, err)
		}
		st := ended(cluster)
		for range 3 {
			if why, err := ask(st, cluster); why != "" || !errors.Is(err, live.ErrUnavailable) {
				t.Errorf("before it has lasted: %q, %v", why, err)
			}
			time.Sleep(leaseTime / 3)
		}
		if why, err := ask(st, cluster); why == "" || err != nil {
			t.Errorf("after it has lasted: %q, %v", why, err)
		}
	})
}

// A node tells the others when a stream has another epoch.
func TestNodesHearOfAnotherEpoch(t *testing.T) {
	s := startServer(t)
	o := Options{Servers: []string{s.ClientURL()}, Streams: []StreamConfig{chat}}
	a, b := open(t, o), open(t, o)
	heard, lost := make(chan error, 10), make(chan error, 10)
	a.Start(lostSink{heard})
	b.Start(lostSink{lost})
	if _, err := a.Publish(context.Background(), room, []byte("1"), broker.PublishOptions{}); err != nil {
		t.Fatal(err)
	}
	st := (*a.streams.list.Load())[0]
	st.givenTwice(st.newestSeen().epoch)
	now, err := a.Last(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	for node, told := range map[string]chan error{"the node": heard, "the other node": lost} {
		select {
		case <-told:
		case <-time.After(patience):
			t.Fatal(node, " was not told")
		}
	}
	if at, err := b.Last(t.Context(), room); err != nil || at != now {
		t.Errorf("the other node is at %v, %v, not %v", at, err, now)
	}
}

type lostSink struct{ lost chan error }

func (lostSink) Deliver(*broker.Publication)    {}
func (s lostSink) Lost(topic string, err error) { s.lost <- err }

// Nodes of a cluster lose files of a stream. Whichever node leads afterwards, either the
// messages still exist or the epoch is another.
func TestClusterThatLostFiles(t *testing.T) {
	t.Parallel()
	f := newFleet(t, chat)
	f.bootAll()
	var before live.Position
	publish := func(n int) {
		t.Helper()
		for i := range n {
			in := f.at(i % meshSize)
			var err error
			if before, err = in.broker.Publish(t.Context(), room, []byte(strconv.Itoa(i)), broker.PublishOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	restart := func(change func(dirs []string)) live.Position {
		t.Helper()
		var dirs []string
		for i := range f.instances {
			dirs = append(dirs, f.at(i).broker.server.store.dir)
			f.crash(i)
		}
		change(dirs)
		for i := range f.instances {
			f.revive(i)
		}
		f.awaitReady()
		at, err := f.at(0).broker.Publish(t.Context(), room, []byte(`"after"`), broker.PublishOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	publish(30)
	if at := restart(func([]string) {}); at.Epoch != before.Epoch {
		t.Errorf("nothing was lost: %v, then %v", before, at)
	}
	publish(30)
	at := restart(func(dirs []string) {
		for _, dir := range dirs { // the messages of the stream, and the log from which they come
			for _, pattern := range []string{"$G/streams/CHAT/msgs", "$SYS/_js_/S-R3F-*"} {
				all, _ := filepath.Glob(filepath.Join(dir, "jetstream", pattern))
				for _, path := range all {
					os.RemoveAll(path)
				}
			}
		}
	})
	if stored := f.contents(room); len(stored) < 62 && at.Epoch == before.Epoch {
		t.Errorf("%d of 62 publications are left, and the position %v was %v", len(stored), at, before)
	}
	publish(30)
	at = restart(func(dirs []string) { otherBoot(t, filepath.Join(dirs[1], "ends")) })
	if at.Epoch == before.Epoch {
		t.Errorf("the power went, and the position %v was %v", at, before)
	}
	for i := range f.instances {
		if last, err := f.at(i).broker.Last(t.Context(), room); err != nil || last != at {
			t.Errorf("node %d: %v, %v, want %v", i, last, err, at)
		}
	}
}
