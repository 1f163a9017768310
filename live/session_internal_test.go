package live

import (
	"testing"
	"unsafe"

	"github.com/livetopic/livetopic/live/internal/inbox"
	"github.com/livetopic/livetopic/live/internal/outbox"
)

// A server with many sessions spends much of its collector's time on them. See Session.out.
func TestCollectorScansSessionsInBatches(t *testing.T) {
	const most = 512 // bytes of an object that Go's collector scans together with its neighbours
	for name, size := range map[string]uintptr{
		"Session": unsafe.Sizeof(Session{}),
		"Box":     unsafe.Sizeof(outbox.Box{}),
		"Reader":  unsafe.Sizeof(inbox.Reader{}),
	} {
		if size > most {
			t.Errorf("a %s takes %d bytes, more than %d", name, size, most)
		}
	}
}
