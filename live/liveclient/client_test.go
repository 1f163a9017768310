package liveclient_test

import (
	"testing"

	"github.com/livetopic/livetopic/live/liveclient"
)

func TestEachStateHasAName(t *testing.T) {
	for state, want := range map[liveclient.State]string{
		liveclient.Connecting: "connecting",
		liveclient.Open:       "open",
		liveclient.Waiting:    "waiting",
		liveclient.Closed:     "closed",
		4:                     "State(4)",
		-1:                    "State(-1)",
	} {
		if got := state.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
