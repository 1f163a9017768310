// Command chat is a chat with rooms, in which everyone sees at once what anyone
// says: in a page, with curl, or from a background job.
//
//	go run ./examples/chat
//
// Read it in this order: main.go starts and ends the program, broker.go makes what
// keeps and carries messages, chat.go is what pages may hear, ask and say, people.go
// who is in a room, others.go the same for those at other instances, person.go how a
// browser is known again, input.go what is let in, routes.go the HTTP side, builds.go
// the job in the background, flags.go the command line, demo.go three instances at
// once. The page is in page/.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// shutdownTimeout bounds the end: pages need milliseconds to be told, but http.Server
	// gives a connection on which a browser has asked for nothing yet five seconds.
	shutdownTimeout = 10 * time.Second

	// headerTimeout frees the connections of clients that send no request.
	headerTimeout = 5 * time.Second
)

func main() {
	slog.SetLogLoggerLevel(slog.LevelWarn)
	c, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case errors.As(err, new(errUsage)): // said already
		os.Exit(2)
	case err != nil:
		log.Fatal("chat: ", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	start := run
	switch {
	case c.demoCluster:
		start = runDemo
	case c.untilEOF:
		signal.Ignore(os.Interrupt) // Ctrl-C reaches all processes of a terminal
		ctx = untilEOF(ctx, os.Stdin)
	}
	if err := start(ctx, c, os.Stdout); err != nil {
		log.Fatal("chat: ", err)
	}
}

// untilEOF returns a context that ends with r at the latest.
func untilEOF(ctx context.Context, r io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with r
		io.Copy(io.Discard, r)
		cancel()
	}()
	return ctx
}

// run serves until ctx ends, then tells every page to come back and returns.
func run(ctx context.Context, c config, out io.Writer) error {
	broker, err := openBroker(ctx, c, out)
	switch {
	case ctx.Err() != nil && err != nil: // it has waited for others long enough
		return nil
	case err != nil:
		return err
	}
	chat := NewChat(broker, 0)
	listener, err := net.Listen("tcp", c.addr)
	if err != nil {
		return errors.Join(err, shutdown(chat.Shutdown))
	}
	server := &http.Server{Handler: chat.Routes(), ReadHeaderTimeout: headerTimeout}

	jobs, stopJobs := context.WithCancel(ctx)
	var running sync.WaitGroup
	if c.builds {
		running.Go(func() { chat.RunBuilds(jobs, buildStep) })
	}
	err = chat.Run(ctx, func() error {
		greet(out, listener.Addr(), c)
		defer stopJobs()
		return server.Serve(listener)
	}, server.Shutdown)
	running.Wait()
	return err
}

// shutdown has something shut down in time.
func shutdown(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	return f(ctx)
}

func greet(out io.Writer, addr net.Addr, c config) {
	url := "http://" + addr.String()
	if tcp, ok := addr.(*net.TCPAddr); ok && (tcp.IP.IsUnspecified() || tcp.IP.IsLoopback()) {
		url = fmt.Sprintf("http://localhost:%d", tcp.Port)
	}
	fmt.Fprintf(out, `Chat: %[1]s

Open it in two tabs, or join in from a terminal:

  curl --json '{"topic":"room:general","data":{"name":"curl","text":"hello from a terminal"}}' %[1]s/publish

See what the server does, from this machine: %[1]s%[3]s

%[2]s
Ctrl-C ends it.
`, url, c.memory(), inspectPath)
}

// memory says where history is kept.
func (c *config) memory() string {
	switch {
	case c.nats != "":
		return "What is said is kept by NATS at " + c.nats + "."
	case c.store == "":
		return "What is said is forgotten when the program ends."
	}
	return "What is said is kept in " + c.store + "."
}
