// Command notifications shows what happens elsewhere: notifications that any program publishes over
// HTTP, and the progress of jobs. Every tab follows both. A tab that is loaded again, and a server that
// was killed, go on where they were.
//
//	go run ./examples/notifications
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

//go:embed page.html
var page string

const (
	token    = "demo" // the page shows it, so that the line with curl works; keep yours secret
	maxText  = 500    // bytes of a notification
	jobSteps = 40
)

// Notification is a line of the list that pages show.
type Notification struct {
	Text string    `json:"text"`
	Time time.Time `json:"time"`
}

// Job is work in the background. Each job is a key of the topic "jobs". All that is known of it is the
// key's newest value, which the broker keeps on the disk.
type Job struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Done  int    `json:"done"` // steps
	Steps int    `json:"steps"`
}

func topicOptions(topic string) live.TopicOptions {
	switch topic {
	case "notifications": // a list: a page gets the newest, and after a loss of its connection what it missed
		return live.TopicOptions{History: 50}
	case "jobs": // a table: of each job only the newest progress counts
		return live.TopicOptions{Keyed: true, History: 20}
	}
	return live.TopicOptions{}
}

type app struct {
	live *live.Server
	step time.Duration // how long a step of a job takes
}

// newApp goes on with the jobs that were under way when the program ended.
func newApp(broker live.Broker, step time.Duration) (*app, error) {
	a := &app{step: step}
	a.live = live.New(live.Options{
		OnSubscribe: func(_ context.Context, _ *live.Session, topic string) error {
			if topicOptions(topic).History == 0 {
				return errors.New("there is no such topic")
			}
			return nil
		},
		OnRequest: a.asked,
		Topics:    topicOptions,
		Broker:    broker,
	})
	jobs, err := a.jobs()
	for _, job := range jobs {
		go a.run(job) // ends with the job or with the server
	}
	return a, err
}

func (a *app) jobs() ([]Job, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return live.History[Job](ctx, a.live, "jobs", 20)
}

// newID returns an ID for a job. The IDs sort in the order in which the jobs started.
func newID(start time.Time) string { return fmt.Sprintf("%013d-%s", start.UnixMilli(), rand.Text()) }

func (a *app) publish(job Job) error {
	return live.Publish(a.live, "jobs", job, live.Key(job.ID))
}

// asked does what the buttons of a page ask for.
func (a *app) asked(_ context.Context, _ *live.Session, what string, _ []byte) (any, error) {
	switch what {
	case "start":
		job := Job{ID: newID(time.Now()), Name: "Export of " + time.Now().Format("15:04:05"), Steps: jobSteps}
		err := a.publish(job)
		if errors.Is(err, live.ErrTooManyKeys) {
			return nil, &live.ClientError{Code: "too_many", Message: "there are 20 jobs already: clear those that are done"}
		}
		if err == nil {
			go a.run(job) // ends with the job or with the server
		}
		return nil, err
	case "clear":
		jobs, err := a.jobs()
		for _, job := range jobs {
			if job.Done == job.Steps {
				err = cmp.Or(err, a.live.Remove("jobs", job.ID))
			}
		}
		return nil, err
	}
	return nil, errors.New("there is no such request")
}

// run does the rest of a job. A step counts when its publication is stored, so a step after which the
// process was killed may be done twice.
func (a *app) run(job Job) {
	for job.Done < job.Steps {
		time.Sleep(a.step) // the work
		next := job
		next.Done++
		var err error
		if next.Done == next.Steps { // before the last step counts, so that a restart does not leave it out
			err = a.notify(next.Name+" is done", next.ID)
		}
		if err == nil {
			err = a.publish(next)
		}
		switch {
		case errors.Is(err, live.ErrServerClosed):
			return
		case err != nil:
			log.Print("notifications: the job waits: ", err)
		default:
			job = next
		}
	}
}

// notify makes a notification once, however often it is called with the ID within two minutes.
func (a *app) notify(text, id string) error {
	return live.Publish(a.live, "notifications", Notification{text, time.Now()}, live.ID(id))
}

func (a *app) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /live", a.live.Handler())
	mux.Handle("GET /live.js", client.Handler())
	mux.Handle("POST /publish", a.live.PublishHandler(live.PublishHandlerOptions{Auth: authenticate, OnPublish: stamp}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, page) })
	return mux
}

func authenticate(_ context.Context, r *http.Request) (any, error) {
	if subtle.ConstantTimeCompare([]byte(live.Token(r)), []byte(token)) == 0 {
		return nil, errors.New("unknown token")
	}
	return nil, nil
}

// stamp makes a notification of the text that a program sends.
func stamp(_ context.Context, _ any, p *live.HTTPPublication) (err error) {
	var text string
	if p.Topic != "notifications" || json.Unmarshal(p.Data, &text) != nil || text == "" || len(text) > maxText {
		return &live.ClientError{Code: "bad_request", Message: `send {"topic":"notifications","data":"a text"}`}
	}
	p.Data, err = json.Marshal(Notification{text, time.Now()})
	return err
}

func main() {
	addr := flag.String("addr", "localhost:8080", "`address` to listen on")
	store := flag.String("store", defaultStore(), "`folder` that keeps notifications and jobs; \"\" keeps them in memory")
	step := flag.Duration("step", 250*time.Millisecond, "how long a step of a job takes")
	flag.Parse()
	broker, err := natsbroker.New(natsbroker.Options{StoreDir: *store})
	if err != nil {
		log.Fatalf("notifications: %v (-store names another folder)", err)
	}
	a, err := newApp(broker, *step)
	if err != nil {
		log.Fatal("notifications: ", err)
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal("notifications: ", err)
	}
	web := &http.Server{Handler: a.routes(), ReadHeaderTimeout: 5 * time.Second}
	fmt.Printf("Notifications: http://%s\n", listener.Addr())
	if err := a.live.Run(context.Background(), func() error { return web.Serve(listener) }, web.Shutdown); err != nil {
		log.Fatal("notifications: ", err)
	}
}

// defaultStore is a folder in the cache of the user. "": the user has none.
func defaultStore() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "livetopic-notifications")
}
