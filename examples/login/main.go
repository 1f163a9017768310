// Command login signs people in with a name and a password, shows them on which devices
// they are signed in, as it changes, and signs them out, here or everywhere.
//
//	go run ./examples/login
//
// Read it in this order: main.go starts and ends the program, routes.go is what
// browsers ask for, auth.go signs in and out, devices.go the list that is live,
// people.go who may sign in. The pages are in page/. Sessions and people are in one
// SQLite file, so that a restart signs nobody out.
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	_ "modernc.org/sqlite"
)

// headerTimeout frees the connections of clients that send no request.
const headerTimeout = 5 * time.Second

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	file := flag.String("db", "login.db", "SQLite `file`, which is made if it is not there")
	secure := flag.Bool("secure", false, "set for a proxy with TLS in front: cookies only over https")
	flag.Parse()

	if err := run(*addr, *file, *secure, os.Stdout); err != nil {
		log.Fatal("login: ", err)
	}
}

// run serves until SIGTERM, then tells every page to come back and returns.
func run(addr, file string, secure bool, out io.Writer) error {
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer db.Close()
	app, err := NewApp(db, Options{Secure: secure})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: app.Routes(), ReadHeaderTimeout: headerTimeout}
	greet(out, listener.Addr())
	return app.live.Run(context.Background(), func() error { return server.Serve(listener) }, server.Shutdown)
}

func greet(out io.Writer, addr net.Addr) {
	url := "http://" + addr.String()
	if tcp, ok := addr.(*net.TCPAddr); ok && (tcp.IP.IsUnspecified() || tcp.IP.IsLoopback()) {
		url = fmt.Sprintf("http://localhost:%d", tcp.Port)
	}
	fmt.Fprintf(out, `Login: %s

Sign in as ana or bo, with the password "%s", in two browsers or a private window.
Ctrl-C ends it.
`, url, demoPassword)
}
