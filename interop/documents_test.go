package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/interop/documents"
	"github.com/livetopic/livetopic/interop/documents/program"
)

// withPrograms runs a test with the programs of the pages. TestTheSamePagesHoldForMizu runs it
// once more, with the programs compiled against mizu's live.
func withPrograms(t *testing.T, test func(t *testing.T, p documents.Programs)) {
	test(t, program.All)
}

// Moving over from mizu's live is a change of one import. So what a page says has to hold for both:
// the go command compiles the programs with the other import, and runs their tests.
func TestTheSamePagesHoldForMizu(t *testing.T) {
	args := []string{"test", "-overlay", mizuOverlay(t), "-run", "^(" + strings.Join(programTests(t), "|") + ")$"}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		args = append(args, "-race") // as everything else is compiled already
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		t.Errorf("go %v: %v\n%s", args, err, out)
	}
}

// mizuOverlay is a file for go test -overlay: it has the programs with the other import.
func mizuOverlay(t *testing.T) string {
	t.Helper()
	names, err := filepath.Glob("documents/program/*.go")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	replaced := map[string]string{}
	for _, name := range names {
		ours, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		mizus := strings.Replace(string(ours), `"github.com/livetopic/livetopic/live"`, `"github.com/go-mizu/mizu/live"`, 1)
		if mizus == string(ours) {
			continue // it does not import live
		}
		there, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		replaced[there] = filepath.Join(folder, filepath.Base(name))
		if err := os.WriteFile(replaced[there], []byte(mizus), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(replaced) != 2 {
		t.Fatalf("%d files import live, want 2", len(replaced))
	}
	text, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(folder, "overlay.json")
	if err := os.WriteFile(overlay, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return overlay
}

// programTests are the names of the tests that use withPrograms.
func programTests(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("documents_*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for function := range strings.SplitSeq(string(text), "\nfunc ") {
			if name, _, _ := strings.Cut(function, "("); strings.Contains(function, "\twithPrograms(t, ") {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		t.Fatal("no test uses withPrograms")
	}
	return names
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
