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
	"os/signal"
	"syscall"
	"time"
)

const (
	// keySize is that of SHA-256: a longer key is not safer, a shorter one is less.
	keySize = 32

	// shutdownTimeout bounds the end: pages need milliseconds to be told, but http.Server
	// gives a connection on which a browser has asked for nothing yet five seconds.
	shutdownTimeout = 10 * time.Second

	// headerTimeout frees the connections of clients that send no request.
	headerTimeout = 5 * time.Second
)

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	life := flag.Duration("life", 30*time.Second, "how long a token is valid")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, *life, os.Stdout); err != nil {
		log.Fatal("token: ", err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr string, life time.Duration, out io.Writer) error {
	key := make([]byte, keySize) // tokens end with the program; a real one has a key that stays
	rand.Read(key)               // never fails
	app := newApp(&issuer{key: key, life: life})
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: app.routes(), ReadHeaderTimeout: headerTimeout}
	context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		app.live.Shutdown(ending) // first: http.Server does not know of WebSockets
		server.Shutdown(ending)
	})
	greet(out, listener.Addr())
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
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
