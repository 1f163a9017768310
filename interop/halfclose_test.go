package interop

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"

	"github.com/livetopic/livetopic/live"
)

// A client may shut its side of the connection right after its close frame:
// nothing comes after that anyway. What was queued for it, and the answer to
// its close frame, still have to arrive.
func TestClientThatHalfClosesBehindItsCloseFrameIsAnswered(t *testing.T) {
	const answers = 50
	livetest.OverEach(t, func(t *testing.T, serve func(testing.TB, http.Handler) livetest.Endpoint) {
		var ended livetest.Ends
		answer := strings.Repeat("x", 4<<10)
		server := livetest.NewServer(t, live.Options{
			OnMessage: func(_ context.Context, s *live.Session, topic string, _ []byte) {
				for range answers {
					s.Send(live.Message{Topic: topic, Data: []byte(`"` + answer + `"`)})
				}
			},
			OnClose: ended.OnClose,
		})
		at := serve(t, server.Handler())
		conn := livetest.DialTransport(t, at)
		maskedClose := "\x88\x82\x00\x00\x00\x00" + string(binary.BigEndian.AppendUint16(nil, live.CloseNormal))
		if _, err := io.WriteString(conn, livetest.Dialing{}.Request(at)+string(livetest.Masked(livetest.TextFrame, `{"topic":"t"}`))+maskedClose); err != nil {
			t.Fatal(err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("answered %v, %v", resp, err)
		}
		got, err := io.ReadAll(r)
		if err != nil {
			t.Errorf("the connection ended with %v", err)
		}
		want := strings.Repeat(string(livetest.Unmasked(livetest.TextFrame, `{"topic":"t","data":"`+answer+`"}`)), answers) + "\x88\x02\x03\xe8"
		if string(got) != want {
			t.Errorf("got %d bytes, want the %d of %d answers and a close frame", len(got), len(want), answers)
		}
		if err := ended.Only(t); err != nil {
			t.Errorf("OnClose got %v, want nil", err)
		}
	})
}
