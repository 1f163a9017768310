package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/interop/documents"
	mizu "github.com/livetopic/livetopic/interop/documents/mizuprogram"
	ours "github.com/livetopic/livetopic/interop/documents/program"
)

// Moving over from mizu's live is a change of one import: the programs of the
// pages are here twice, and differ in nothing else.
func TestProgramsDifferInOneImport(t *testing.T) {
	names, err := filepath.Glob("documents/program/*.go")
	if err != nil || len(names) == 0 {
		t.Fatalf("no programs: %v", err)
	}
	imports := 0
	for _, name := range names {
		here, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		there, err := os.ReadFile(filepath.Join("documents/mizuprogram", filepath.Base(name)))
		if err != nil {
			t.Fatal(err)
		}
		const from, to = `"github.com/go-mizu/mizu/live"`, `"github.com/livetopic/livetopic/live"`
		moved := strings.Replace(string(there), from, to, 1)
		if moved != string(here) {
			t.Errorf("%s is not mizu's with one import changed", name)
		}
		if moved != string(there) {
			imports++
		}
	}
	if imports != 2 {
		t.Errorf("%d files import live, want 2", imports)
	}
}

// withPrograms runs a test with the programs compiled against this live, and
// with the same compiled against mizu's: what a page says holds for both.
func withPrograms(t *testing.T, test func(t *testing.T, p documents.Programs)) {
	t.Run("live", func(t *testing.T) { t.Parallel(); test(t, ours.All) })
	t.Run("mizu", func(t *testing.T) { t.Parallel(); test(t, mizu.All) })
}

// join connects a user to a program.
func join(t *testing.T, at livetest.Endpoint, user string) *livetest.Client {
	t.Helper()
	return livetest.Dial(t, at.With("user="+user))
}

var lastProbe atomic.Int64

// settle waits until all that the client sent was handled: for the programs
// that subscribe to whatever they are asked for, and answer nothing. What the
// client receives meanwhile must be nothing.
func settle(t *testing.T, c *livetest.Client, publish documents.Publish) {
	t.Helper()
	topic := fmt.Sprintf("probe:%d", lastProbe.Add(1))
	c.Send(`{"topic":"subscribe","data":{"topic":"` + topic + `"}}`)
	livetest.Eventually(t, "a subscription", func() bool {
		publish(topic, []byte(`"probe"`))
		return c.Waiting() > 0
	})
	publish(topic, []byte(`"last"`))
	for {
		switch got := c.Read(); got {
		case `{"topic":"` + topic + `","data":"last"}`:
			return
		case `{"topic":"` + topic + `","data":"probe"}`:
		default:
			t.Fatalf("got %s while nothing was due", got)
		}
	}
}
