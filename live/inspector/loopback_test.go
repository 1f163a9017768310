package inspector_test

import (
	"net/http/httptest"
	"testing"

	"github.com/livetopic/livetopic/live/inspector"
)

func TestLoopbackLetsInOnlyThisMachine(t *testing.T) {
	for _, c := range []struct {
		remote, host, header string
		allowed              bool
	}{
		{"127.0.0.1:5000", "localhost:8080", "", true},
		{"127.0.0.1:5000", "localhost", "", true},
		{"127.9.9.9:5000", "127.0.0.1:8080", "", true},
		{"[::1]:5000", "[::1]:8080", "", true},
		{"[::1]:5000", "[::1]", "", true},
		{"192.168.1.7:5000", "localhost:8080", "", false},
		{"[fe80::1]:5000", "localhost:8080", "", false},
		{"127.0.0.1:5000", "evil.example:8080", "", false}, // DNS rebinding
		{"127.0.0.1:5000", "evil.example", "", false},
		{"127.0.0.1:5000", "localhost.evil.example", "", false},
		{"127.0.0.1:5000", "127.0.0.1.evil.example", "", false},
		{"127.0.0.1:5000", "", "", false},
		{"127.0.0.1:5000", "192.168.1.7:8080", "", false},
		{"127.0.0.1:5000", "localhost:8080", "X-Forwarded-For", false},
		{"127.0.0.1:5000", "localhost:8080", "Forwarded", false},
		{"127.0.0.1:5000", "localhost:8080", "Via", false},
		{"127.0.0.1:5000", "localhost:8080", "X-Forwarded-Proto", false},
		{"127.0.0.1:5000", "localhost:8080", "X-Real-IP", false},
		{"@", "localhost:8080", "", false}, // a Unix socket, which a proxy uses
		{"", "localhost:8080", "", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr, r.Host = c.remote, c.host
		if c.header != "" {
			r.Header.Set(c.header, "1")
		}
		if err := inspector.Loopback(r); (err == nil) != c.allowed {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// nginx passes requests on like this, unless it is told more.
func TestLoopbackRefusesOldHTTP(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost:8080"
	r.Proto, r.ProtoMinor = "HTTP/1.0", 0
	if inspector.Loopback(r) == nil {
		t.Error("a request of HTTP/1.0 is let in")
	}
}
