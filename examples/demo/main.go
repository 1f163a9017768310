// Command demo runs the examples side by side, with a page that leads to each of them.
//
//	go run ./examples/demo
//
// Read programs.go first: it has the list. page.html follows the state of the programs, and is an example itself.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

//go:embed page.html
var html string

var page = template.Must(template.New("").Parse(html))

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on; the programs take the ports after it")
	dir := flag.String("dir", "", "`folder` that keeps what the programs store (default one in the cache of the user)")
	flag.Parse()
	if err := run(*addr, *dir); err != nil {
		log.Fatal("demo: ", err)
	}
}

func run(addr, dir string) error {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("no folder to store in: %w; name one with -dir", err)
		}
		dir = filepath.Join(cache, "livetopic-demo")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w; choose another address with -addr, or with make demo ADDR=localhost:9000", err)
	}
	fmt.Println("Building the examples …")
	binaries, err := build(ctx)
	switch {
	case ctx.Err() != nil: // Ctrl-C, which has ended the build too
		return nil
	case err != nil:
		return err
	}
	defer os.RemoveAll(binaries)

	server := newServer()
	var running, starting sync.WaitGroup
	for i, p := range programs {
		p.Port = nextPort(listener.Addr(), i+1)
		starting.Add(1)
		started := sync.OnceFunc(starting.Done)
		running.Go(func() { // ends with ctx
			p.keepRunning(ctx, binaries, dir, func() { p.tell(server); started() })
		})
	}
	starting.Wait() // until each serves, or has failed and said so
	web := &http.Server{Handler: routes(server), ReadHeaderTimeout: 5 * time.Second}
	fmt.Printf("Demo: http://localhost:%d\n\n", listener.Addr().(*net.TCPAddr).Port)
	for _, p := range programs {
		if p.SignIn != "" {
			fmt.Printf("%s: %s\n", p.Title, p.SignIn)
		}
	}
	fmt.Printf("Ctrl-C ends it. The programs keep their data in %s.\n", dir)
	err = server.Run(ctx, func() error { return web.Serve(listener) }, web.Shutdown)
	cancel()
	running.Wait()
	return err
}

// newServer has one topic, whose keys are the programs.
func newServer() *live.Server {
	return live.New(live.Options{
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error {
			if topic != "programs" {
				return errors.New("there is one topic")
			}
			return nil
		},
		Topics: func(topic string) live.TopicOptions { return live.TopicOptions{Keyed: topic == "programs"} },
	})
}

func routes(server *live.Server) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", server.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { page.Execute(w, programs) })
	mux.HandleFunc("POST /kill/{name}", func(w http.ResponseWriter, r *http.Request) {
		for _, p := range programs {
			if p.Name == r.PathValue("name") {
				p.kill()
				return
			}
		}
		http.NotFound(w, r)
	})
	return http.NewCrossOriginProtection().Handler(mux)
}
