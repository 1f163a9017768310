// Server is a program for tests to kill: it counts on a topic that keeps history,
// says where it listens, and goes on until its end.
//
// A publication is {"run":…,"n":…}: which process counts, and how far it is.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/livetopic/livetopic/live"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "where to listen")
	every := flag.Duration("every", 10*time.Millisecond, "time between publications")
	flag.Parse()
	server := live.New(live.Options{
		OnSubscribe: func(context.Context, *live.Session, string) error { return nil },
		Topics:      func(string) live.TopicOptions { return live.TopicOptions{History: 1000} },
	})
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ln.Addr())
	go func() { // ends with the process
		for n := 1; ; n++ {
			server.Publish("count", fmt.Appendf(nil, `{"run":%d,"n":%d}`, os.Getpid(), n))
			time.Sleep(*every)
		}
	}()
	log.Fatal(http.Serve(ln, server.Handler()))
}
