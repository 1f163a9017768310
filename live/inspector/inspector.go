// Package inspector serves a page that shows what a live.Server does: its figures and those of the other
// servers of its Broker, its sessions and topics, what is published to one topic, and why clients were
// closed. Mount it behind the sign-in of your application:
//
//	mux.Handle("/inspect/", inspector.New(server, inspector.Options{Auth: onlyAdmins}))
//
// The page works under any path that ends in a slash. While nobody looks at it, it costs nothing.
package inspector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/loglimit"
)

// Options configures the inspector. The zero value serves nobody.
type Options struct {
	// Auth decides who may look. It is called for every request. An error refuses the request with
	// 403. The error's own text is logged, and not sent. nil: nobody may look, unless Insecure is
	// set. Loopback lets in the browsers of the same machine.
	Auth func(r *http.Request) error

	// Insecure serves everybody who can reach the handler if there is no Auth. It is for an
	// inspector behind a middleware that checks who asks.
	Insecure bool

	// Allow says what a person may do besides looking.
	Allow Allow

	// Drain is called when a person presses "Drain this server". It should end the program in order,
	// so that a test of a deploy is like a deploy. Server.Shutdown itself fits if nothing else has to
	// end. The call runs in a goroutine of its own, and its context ends after a minute. nil: there is
	// no such button.
	Drain func(ctx context.Context) error

	// Logger gets a line for each action of a person, with the address of the browser. nil:
	// slog.Default().
	Logger *slog.Logger
}

// Allow says what a person may do besides looking. The zero value allows nothing.
type Allow struct {
	// Payloads allows to see what is published to a topic. Without it the page shows times and sizes.
	// Payloads may be private messages of your users.
	Payloads bool

	// Publish allows to publish to any topic.
	Publish bool

	// Close allows to close sessions of this server, with a code that tells the client what to do.
	Close bool

	// SlowReader allows to connect clients that read two kilobytes a second, to see what the server
	// does with them. They connect with the cookies and the Authorization header of the person, so
	// OnAuth must let them in. At most five run at once, and each ends after a minute.
	SlowReader bool
}

// inspector is the handler.
type inspector struct {
	server *live.Server
	opts   Options
	cross  *http.CrossOriginProtection
	routes map[string]route
	rates  rates
	tails  tails
	slow   slowReaders

	refusals loglimit.Limiter // bounds the log: a refused page asks again every two seconds
	draining atomic.Bool      // somebody has pressed "Drain this server"
}

// route is what the handler does for a name. The name is the last element of the path.
type route struct {
	method  string
	allowed bool
	serve   func(r *http.Request) (any, error)
}

// New returns a handler that serves the page of a server. Mount it at a path that ends in a slash, such
// as "/inspect/". It may also be mounted with http.StripPrefix.
//
// Without an Auth, and without Insecure, the handler answers every request with 403 and a text that
// says what to do.
func New(server *live.Server, opts Options) http.Handler {
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	in := &inspector{server: server, opts: opts, cross: http.NewCrossOriginProtection()}
	in.tails.server = server
	in.routes = map[string]route{
		"figures":  {http.MethodGet, true, in.figures},
		"sessions": {http.MethodGet, true, in.sessions},
		"session":  {http.MethodGet, true, in.session},
		"topics":   {http.MethodGet, true, in.topics},
		"ends":     {http.MethodGet, true, in.ends},
		"tail":     {http.MethodGet, true, in.tail},
		"close":    {http.MethodPost, opts.Allow.Close, in.close},
		"publish":  {http.MethodPost, opts.Allow.Publish, in.publish},
		"slow":     {http.MethodPost, opts.Allow.SlowReader, in.slowReader},
		"drain":    {http.MethodPost, opts.Drain != nil, in.drain},
	}
	if opts.Auth == nil && !opts.Insecure {
		opts.Logger.Warn("live inspector: it serves nobody: " + errNoAuth.text)
	}
	return in
}

// problem is an error that the person is told.
type problem struct {
	status int
	text   string
}

func (p *problem) Error() string { return p.text }

func problemf(status int, format string, args ...any) error {
	return &problem{status, fmt.Sprintf(format, args...)}
}

var (
	errNoAuth = &problem{http.StatusForbidden, "Options.Auth is not set. The inspector shows who is connected and what they do, " +
		"so it needs a function that says who may look. Use inspector.Loopback on your own machine, " +
		"or set Insecure if a handler around the inspector checks who asks."}
	errNotYou  = &problem{http.StatusForbidden, "you may not look at this server: the Auth function of the inspector refused"}
	errUnknown = &problem{http.StatusNotFound, "there is nothing here: mount the inspector at a path that ends in a slash, such as /inspect/"}
)

// ServeHTTP implements http.Handler.
func (in *inspector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	if err := in.authorize(r); err != nil {
		fail(w, err)
		return
	}
	name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if file, ok := files[name]; ok {
		file.serve(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	route, ok := in.routes[name]
	if !ok {
		fail(w, errUnknown)
		return
	}
	if err := in.check(w, r, name, &route); err != nil {
		fail(w, err)
		return
	}
	answer, err := route.serve(r)
	if err != nil {
		fail(w, err)
		return
	}
	writeJSON(w, answer)
}

// authorize returns nil if the request may see the page.
func (in *inspector) authorize(r *http.Request) error {
	switch {
	case in.opts.Auth == nil && in.opts.Insecure:
		return nil
	case in.opts.Auth == nil:
		return errNoAuth
	}
	if err := in.opts.Auth(r); err != nil {
		in.refusals.Log(in.opts.Logger, slog.LevelInfo, "live inspector: refused", "remote", r.RemoteAddr, "err", err)
		return errNotYou
	}
	return nil
}

// maxBody bounds the body of a request. A publication that a person types is smaller.
const maxBody = 1 << 20

// check checks where a request comes from, its method, and whether the Options allow its action. The page
// of another site can have the person's browser send a request, but not from this origin. Old browsers
// do not name the origin, but no form of theirs sends JSON.
func (in *inspector) check(w http.ResponseWriter, r *http.Request, name string, route *route) error {
	if r.Method != route.method {
		w.Header().Set("Allow", route.method)
		return problemf(http.StatusMethodNotAllowed, "the method of %s is %s", name, route.method)
	}
	if err := in.cross.Check(r); err != nil || isOfOtherSite(r) {
		return problemf(http.StatusForbidden, "the request comes from a page of another site")
	}
	if r.Method != http.MethodPost {
		return nil
	}
	if r.Header.Get("Content-Type") != "application/json" {
		return problemf(http.StatusUnsupportedMediaType, "send JSON")
	}
	if !route.allowed {
		return problemf(http.StatusForbidden, "the inspector's Options do not allow this: see %s", optionFor[name])
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	return nil
}

// isOfOtherSite reports whether a browser says that the page of another site makes the request.
// CrossOriginProtection does not look at this for a GET. But a request for a tail has the server listen
// to a topic, and every request costs time.
func isOfOtherSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none": // none: the person has typed the address
		return false
	}
	return true
}

// optionFor names the option that allows an action.
var optionFor = map[string]string{
	"close":   "Allow.Close",
	"publish": "Allow.Publish",
	"slow":    "Allow.SlowReader",
	"drain":   "Drain",
}

// fail answers with an error. Only a problem is told to the browser.
func fail(w http.ResponseWriter, err error) {
	var p *problem
	if !errors.As(err, &p) {
		p = &problem{http.StatusInternalServerError, "internal error"}
	}
	http.Error(w, errorPrefix+p.text, p.status)
}

// errorPrefix says whose error it is. A person may see the text without the page. It is a constant because
// the test of the log's page takes a call of http.Error with such a text for a line of the log.
const errorPrefix = "live inspector: "

// idle is how long the inspector keeps tails and samples when nobody asks for them: five polls of the
// page.
const idle = 10 * time.Second
