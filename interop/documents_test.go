package interop

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

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
func join(t *testing.T, at endpoint, user string) *client {
	t.Helper()
	return dial(t, at.with("user="+user))
}

// ask sends a message and returns what comes next.
func (c *client) ask(text string) string {
	c.t.Helper()
	c.send(text)
	return c.read()
}

// leave closes the connection as a browser does that leaves the page.
func (c *client) leave() {
	c.t.Helper()
	if err := c.close(1001); err != nil {
		c.t.Fatal(err)
	}
	c.rest()
}

var lastProbe atomic.Int64

// settle waits until all that the client sent was handled: for the programs
// that subscribe to whatever they are asked for, and answer nothing. What the
// client receives meanwhile must be nothing.
func (c *client) settle(publish documents.Publish) {
	c.t.Helper()
	topic := fmt.Sprintf("probe:%d", lastProbe.Add(1))
	c.send(`{"topic":"subscribe","data":{"topic":"` + topic + `"}}`)
	await(c.t, "a subscription", func() bool {
		publish(topic, []byte(`"probe"`))
		return len(c.in.messages) > 0
	})
	publish(topic, []byte(`"last"`))
	for {
		switch got := c.read(); got {
		case `{"topic":"` + topic + `","data":"last"}`:
			return
		case `{"topic":"` + topic + `","data":"probe"}`:
		default:
			c.t.Fatalf("got %s while nothing was due", got)
		}
	}
}

// refusal connects where it must fail, and returns the answer's status.
func refusal(t *testing.T, e endpoint, header http.Header) int {
	t.Helper()
	c, err := libraries[0].tryConnect(t, e, header)
	if err == nil {
		t.Fatal("connected, want a refusal")
	}
	if c.response == nil {
		t.Fatalf("no answer: %v", err)
	}
	return c.response.StatusCode
}

// check compares what a client got with what its page says.
func check(t *testing.T, who, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s got  %s\nwant %s", who, got, want)
	}
}
