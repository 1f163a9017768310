//go:build linux

package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
)

// A browser that has the page from HAProxy over HTTP/2 opens the WebSocket on that connection.
func TestWebSocketOverHTTP2ThroughHAProxy(t *testing.T) {
	t.Parallel()
	certificate, trusted := testCertificate(t)
	kind := proxyKinds[2]
	kind.listen[1] = "bind 127.0.0.1:PORT ssl crt DIR/cert.pem alpn h2,http/1.1\n"
	files := kind.files
	kind.files = func(p *proxy, config string) map[string]string {
		all := files(p, config)
		all["cert.pem"] = certificate
		return all
	}
	p := newProxy(t, kind)
	p.URL = "wss" + strings.TrimPrefix(p.URL, "ws")
	p.TLS = trusted
	server := livetest.NewServer(t, livetest.Permissive())
	p.start(p.config(serveNode(t, "one", map[string]http.Handler{"/live": server.Handler()})))

	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, "node", "node/http2.mjs", p.origin(), "/live").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "200 live.v1\n"+`{"op":"hello",`) {
		t.Errorf("%v: %s; HAProxy wrote:\n%s", err, out, p.log())
	}
	p.dial() // and over HTTP/1.1 as before
}

// testCertificate returns the certificate of httptest with its key, and what trusts it.
func testCertificate(t testing.TB) (certificate string, trusted *tls.Config) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	return certificate, &tls.Config{RootCAs: roots, ServerName: "example.com"}
}
