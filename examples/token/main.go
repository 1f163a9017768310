// Command token lets clients in by a JSON Web Token (RFC 7519), for those that have no
// cookie: programs, apps, pages of another site. When a token expires its socket ends, and
// live.js comes back with a new one by itself.
//
//	go run ./examples/token -life 10s
//
// Read it in this order: main.go starts the program, token.go issues tokens and checks
// them, routes.go is what clients ask for. The page is in page/.
package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

const (
	// keySize is that of SHA-256: a longer key is not safer, a shorter one is less.
	keySize = 32

	// headerTimeout frees the connections of clients that send no request.
	headerTimeout = 5 * time.Second
)

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	life := flag.Duration("life", 30*time.Second, "how long a token is valid")
	flag.Parse()

	if err := run(*addr, *life, os.Stdout); err != nil {
		log.Fatal("token: ", err)
	}
}

// run serves until SIGTERM.
func run(addr string, life time.Duration, out io.Writer) error {
	key := make([]byte, keySize) // tokens end with the program; a real one has a key that stays
	rand.Read(key)               // never fails
	app := newApp(&issuer{key: key, life: life})
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: app.routes(), ReadHeaderTimeout: headerTimeout}
	greet(out, listener.Addr())
	return app.live.Run(context.Background(), func() error { return server.Serve(listener) }, server.Shutdown)
}

func greet(out io.Writer, addr net.Addr) {
	url := "http://" + addr.String()
	if tcp, ok := addr.(*net.TCPAddr); ok && (tcp.IP.IsUnspecified() || tcp.IP.IsLoopback()) {
		url = fmt.Sprintf("http://localhost:%d", tcp.Port)
	}
	fmt.Fprintf(out, `Token: %[1]s

A program gets a token, and sends it in a header:

  curl -d user=curl %[1]s/token

Ctrl-C ends it.
`, url)
}
