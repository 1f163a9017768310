package live_test

import (
	"bytes"
	"compress/flate"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// serve starts a server of opts on loopback, and returns its URL. Both are ended
// with the test.
func serve(t *testing.T, opts live.Options) (*live.Server, string) {
	t.Helper()
	h := livetest.Hosting{}.Start(t, opts)
	return h.Server, h.HTTP()
}

// dial connects a plain client, which reads only while the test waits for a frame.
func dial(t *testing.T, url string) *livetest.Client {
	t.Helper()
	return livetest.Connect(t, livetest.Endpoint{URL: url}, livetest.Dialing{})
}

// pair returns a client and its session.
func pair(t *testing.T, url string, sessions chan *live.Session) (*livetest.Client, *live.Session) {
	t.Helper()
	c := dial(t, url)
	return c, livetest.Receive(t, sessions)
}

// noGoroutinesLeft checks, at the end of the test, that as many goroutines run as
// do now.
func noGoroutinesLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		for deadline := time.Now().Add(livetest.Patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
	})
}

// lines keeps what is logged at Info and above.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(p))
	return len(p), nil
}

func (l *lines) with(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.all {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func logging() (*slog.Logger, *lines) {
	l := new(lines)
	return slog.New(slog.NewTextHandler(l, nil)), l
}

// allocated returns how many bytes f allocates, garbage or not.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// deflated returns a client's compressed frame.
func deflated(payload string) []byte {
	return livetest.Masked(livetest.TextFrame|0x40, deflate(payload))
}

func deflate(payload string) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	w.Write([]byte(payload))
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// cpu returns how much of one CPU the process takes during d.
func cpu(d time.Duration) float64 {
	before, begun := processTime(), time.Now()
	time.Sleep(d)
	return float64(processTime()-before) / float64(time.Since(begun))
}

// flood sends the same bytes for as long as the line takes them.
func flood(p *livetest.Client, b []byte) {
	var all []byte
	for len(all) < 64<<10 {
		all = append(all, b...)
	}
	go func() { // ends with the connection
		for p.Write(all) == nil {
		}
	}()
}

// untilClosed reads to the server's close frame, and does not answer it.
func untilClosed(p *livetest.Client) {
	p.Conn.SetReadDeadline(time.Now().Add(livetest.Patience))
	for {
		if f, err := p.ReadFrame(); err != nil || f.First == livetest.CloseFrame {
			return
		}
	}
}

func untilEnd(p *livetest.Client) {
	p.Attend().Rest()
}

// liveHeap returns how many bytes of the heap are in use.
func liveHeap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// Pings as these tests have them: a client that is taken for dead is so within two
// seconds and a half, which is far more than a busy machine needs to answer.
const (
	shortPing   = 100 * time.Millisecond
	shortAnswer = 2400 * time.Millisecond
	longTime    = 4 * time.Second // for which the application is busy
)

// shortPings returns options with these, whose OnClose tells how the session ended.
func shortPings(opts live.Options) (live.Options, chan error) {
	ends := make(chan error, 10)
	opts.PingInterval, opts.PingTimeout = shortPing, shortAnswer
	opts.OnClose = func(_ *live.Session, err error) { ends <- err }
	return opts, ends
}

// stillOpen checks that no session has ended.
func stillOpen(t *testing.T, srv *live.Server, ends chan error) {
	t.Helper()
	select {
	case err := <-ends:
		t.Errorf("the session has ended: %v", err)
	default:
		if st := srv.Stats(); st.Sessions != 1 || st.PingTimeouts != 0 {
			t.Errorf("%+v", st)
		}
	}
}

// TestMain lets more tests run at the same time than there are CPUs: those that may do so mostly
// wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if set := flag.Lookup("test.parallel"); set.Value.String() == set.DefValue {
		set.Value.Set(strconv.Itoa(max(runtime.GOMAXPROCS(0), 4)))
	}
	os.Exit(m.Run())
}
