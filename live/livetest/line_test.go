package livetest_test

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/live/livetest"
)

// A frame that is cut off is the end of the connection, wherever the cut is. It is no message that the test did not expect.
func TestFrameThatIsCutOffIsNoMessage(t *testing.T) {
	t.Parallel()
	message := `{"topic":"a","data":"` + strings.Repeat("x", 1877) + `"}`
	frame := "\x81\x7e\x07\x6c" + message // 1,900 bytes
	for _, length := range []int{0, 1, 2, 3, 4, 5, 515, 516, 517, 1000, len(frame) - 1} {
		f := fake(t, func(t testing.TB) {
			srv := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				key := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 4.2.2
				fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n%s",
					base64.StdEncoding.EncodeToString(key[:]), frame[:length])
			}))
			c := srv.Dial(livetest.Plain())
			c.Expect("a", "text") // fails
		})
		if len(f.failures) != 1 || !strings.Contains(f.failures[0], "has ended without a close frame") || strings.Contains(f.failures[0], "JSON") {
			t.Errorf("cut after %d bytes: %.300q", length, f.failures)
		}
	}
}
