// Command chat is a chat with rooms, in which everyone sees at once what anyone
// says: in a page, with curl, or from a background job.
//
//	go run ./examples/chat
//
// Read it in this order: main.go starts and ends the program, chat.go is what
// pages may hear, ask and say, people.go who is in a room, person.go how a browser
// is known again, input.go what is let in, routes.go the HTTP side, builds.go the
// job in the background. The page is in page/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// shutdownTimeout bounds the end: pages need milliseconds to be told, and
	// whoever restarts the program wants to wait no longer.
	shutdownTimeout = 5 * time.Second

	// headerTimeout frees the connections of clients that send no request.
	headerTimeout = 5 * time.Second
)

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	if err := run(ctx, *addr, os.Stdout); err != nil {
		log.Fatal("chat: ", err)
	}
}

// run serves until ctx ends, then tells every page to come back and returns.
func run(ctx context.Context, addr string, out io.Writer) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	chat := NewChat()
	server := &http.Server{Handler: chat.Routes(), ReadHeaderTimeout: headerTimeout}

	jobs, stopJobs := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { chat.RunBuilds(jobs, buildStep) })
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	greet(out, listener.Addr())

	select {
	case err = <-served:
	case <-ctx.Done():
	}

	stopJobs()
	running.Wait()
	ending, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	// The live server first: http.Server does not know of WebSockets.
	return errors.Join(err, chat.Shutdown(ending), server.Shutdown(ending))
}

func greet(out io.Writer, addr net.Addr) {
	url := "http://" + addr.String()
	if tcp, ok := addr.(*net.TCPAddr); ok && (tcp.IP.IsUnspecified() || tcp.IP.IsLoopback()) {
		url = fmt.Sprintf("http://localhost:%d", tcp.Port)
	}
	fmt.Fprintf(out, `Chat: %[1]s

Open it in two tabs, or join in from a terminal:

  curl -d user=curl -d text="hello from a terminal" %[1]s/rooms/general/messages

Ctrl-C ends it.
`, url)
}
