package live_test

import (
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
)

// An operator finds each line of the log in docs/operations.md.
func TestPageOfOperationsHasEveryMessage(t *testing.T) {
	livetest.LogPage(t, ".", "live: ", "../docs/operations.md")
	livetest.LogPage(t, "inspector", "live inspector: ", "../docs/operations.md")
	livetest.LogPage(t, "websession", "websession: ", "../docs/operations.md")
}
