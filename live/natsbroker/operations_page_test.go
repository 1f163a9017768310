package natsbroker_test

import (
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
)

// An operator finds each line of the log in docs/operations.md.
func TestPageOfOperationsHasEveryMessage(t *testing.T) {
	livetest.LogPage(t, ".", "natsbroker: ", "../../docs/operations.md")
}
