package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
)

// child is a server in a process of its own.
type child struct {
	*exec.Cmd
	addr string
}

func startChild(t testing.TB, program, addr string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(program, "-addr", addr), addr: addr}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		c.kill()
		t.Fatalf("the server does not start: %v", err)
	}
	return c
}

// kill kills the process at once: SIGKILL, of which it hears nothing.
func (c *child) kill() {
	c.Process.Kill()
	c.Wait()
}

// What a process kept is gone when it is killed. Each client is told, once for
// each process, and has everything of each from where it was told to begin.
func TestServerThatIsKilledAndRestartedTellsAGap(t *testing.T) {
	const clients, kills = 60, 3
	program := filepath.Join(t.TempDir(), "server")
	if out, err := exec.Command("go", "build", "-o", program, "./node/server").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := startChild(t, program, livetest.FreeAddress(t))
	defer func() { c.kill() }()

	type count struct {
		Run int64
		N   int
	}
	var ended atomic.Bool
	all := make([]*livetest.Roamer, clients)
	runs := make([]atomic.Int64, clients) // of each client: the process that it hears
	allHear := func(c *child) {
		livetest.Eventually(t, "all to hear the process", func() bool {
			for i := range runs {
				if runs[i].Load() != int64(c.Process.Pid) {
					return false
				}
			}
			return true
		})
	}
	var roaming sync.WaitGroup
	for i := range all {
		told := false // of a gap, and nothing has come since
		take := func(a *livetest.Ledger, data json.RawMessage, at string) error {
			var got count
			if err := json.Unmarshal(data, &got); err != nil {
				return err
			}
			if before := runs[i].Swap(got.Run); before != got.Run && before != 0 && !told {
				return fmt.Errorf("a new process, and no gap: %s", data)
			}
			told = false
			return a.Publication(got.N, at)
		}
		r := &livetest.Roamer{
			T: t, At: livetest.Endpoint{URL: "ws://" + c.addr}, Topics: []string{"count"}, Ledgers: map[string]*livetest.Ledger{"count": {}},
			Up: time.Hour, Down: 10 * time.Millisecond, Calm: make(chan struct{}),
			Done: func(*livetest.Roamer) bool { return ended.Load() },
			Take: func(r *livetest.Roamer, f livetest.Frame) error {
				if f.Op == "gap" {
					return fmt.Errorf("got %s", f.Raw) // every process keeps all
				}
				return take(r.Ledgers["count"], f.Data, f.At)
			},
			Answered: func(_ *livetest.Roamer, a *livetest.Ledger, f livetest.Frame) error {
				epoch, _ := livetest.OffsetOf(f.At)
				before, _ := livetest.OffsetOf(a.Since)
				switch {
				case a.Since == "":
					_, a.Seen = livetest.OffsetOf(f.At)
				case f.Recovered == nil || f.WasRecovered() != (epoch == before):
					return fmt.Errorf("resumed since %s: %.200s", a.Since, f.Raw)
				case f.WasRecovered():
					for _, m := range f.Messages {
						if err := take(a, m.Data, m.At); err != nil {
							return err
						}
					}
				default:
					told = true
					a.Gaps++
					_, a.Seen = livetest.OffsetOf(f.At)
				}
				a.Since = f.At
				return nil
			},
		}
		all[i] = r
		roaming.Go(r.Roam)
	}
	allHear(c)
	for range kills {
		c.kill()
		c = startChild(t, program, c.addr)
		allHear(c)
	}
	ended.Store(true)
	roaming.Wait()
	for i, r := range all {
		if gaps := r.Ledgers["count"].Gaps; gaps != kills {
			t.Errorf("client %d was told of %d gaps, want %d", i, gaps, kills)
		}
	}
}
