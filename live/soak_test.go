//go:build soak

package live_test

import (
	"testing"

	"github.com/livetopic/livetopic/live"
)

// TestSlowClientsMissNothingOfATopicWithHistory with a thousand clients, for half a minute of
// too much: go test -race -tags soak -timeout 10m -run Thousand ./live
func TestAThousandSlowClientsMissNothing(t *testing.T) {
	const clients, pace, size = 1000, 20_000, 1000
	const perSecond, seconds = 2 * pace / size, 30
	keepUp(t, clients, pace, size, perSecond, perSecond*seconds, live.Options{})
}
