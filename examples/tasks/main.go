// Command tasks is a list of tasks over SQLite that every open page follows: rendered by the
// server, then kept up to date from the position at which it was rendered.
//
//	go run ./examples/tasks
//
// Read app.go first, then page/tasks.js, then list.go.
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"time"

	_ "modernc.org/sqlite"
)

// options of the database: a writer waits for another, and takes its turn before it has read.
const options = "?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_txlock=immediate"

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	file := flag.String("db", "tasks.db", "SQLite `file`, which is made if it is not there")
	flag.Parse()
	if err := run(*addr, *file); err != nil {
		log.Fatal("tasks: ", err)
	}
}

func run(addr, file string) error {
	db, err := sql.Open("sqlite", "file:"+file+options)
	if err != nil {
		return err
	}
	defer db.Close()
	app, err := NewApp(db)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: app.Routes(), ReadHeaderTimeout: 5 * time.Second}
	fmt.Printf("Tasks: http://%s\n", listener.Addr())
	return app.live.Run(context.Background(), func() error { return web.Serve(listener) }, web.Shutdown)
}
