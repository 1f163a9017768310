package live_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

func TestPositionThatIsNoneOfThisHistoryIsAGap(t *testing.T) {
	t.Parallel()
	server := livetest.NewHistoryServer(t, live.TopicOptions{History: 10}, nil)
	livetest.PublishNumbers(t, server, "t", 1, 5)
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	at := c.Must(livetest.SubscribeTo(1, "t")).At
	epoch := strings.TrimSuffix(at, ".5")
	for _, since := range []string{
		"otherepoch.3", "otherepoch.5", "otherepoch.0", "a.b.c.5", `\u0000.5`,
		epoch + ".6", epoch + ".18446744073709551615", // ahead
		strings.ToUpper(epoch) + ".4",
	} {
		if since == epoch+".4" {
			continue // an epoch without a letter
		}
		c.Must(livetest.UnsubscribeFrom(2, "t"))
		livetest.Same(t, since, c.Do(fmt.Sprintf(`{"op":"subscribe","id":3,"topic":"t","since":"%s"}`, since)).Raw,
			`{"op":"reply","id":3,"at":"`+at+`","recovered":false}`)
	}
	server.Publish("t", []byte(`6`))
	c.Hears("t", "6")
}
