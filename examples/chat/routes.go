package main

import (
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"io/fs"
	"mime"
	"net/http"

	"github.com/go-mizu/mizu"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// maxBody is the largest body of a POST: the longest text, percent-encoded.
const maxBody = readLimit

// inspectPath is where the inspector is.
const inspectPath = "/inspect/"

//go:embed page
var files embed.FS

var index = template.Must(template.ParseFS(files, "page/index.html"))

// Routes is everything that the program serves.
func (c *Chat) Routes() http.Handler {
	assets, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the files are compiled in: it cannot be
	}
	app := mizu.New()
	app.Use(guard)
	app.Get("/{$}", c.page)
	app.Static("/page/", http.FS(assets))
	app.Mount("/live.js", client.Handler())
	app.Mount("/live", c.live.Handler())
	app.Mount(inspectPath, inspector.New(c.live, inspector.Options{
		Auth:  inspector.Loopback, // whoever sits at this machine may do everything
		Allow: inspector.Allow{Payloads: true, Publish: true, Close: true, SlowReader: true},
		Drain: c.Shutdown,
	}))
	app.Get("/rooms/{room}/messages", c.listMessages)
	app.Post("/rooms/{room}/messages", c.postMessage)
	// No page of another site may post in a reader's name.
	return http.NewCrossOriginProtection().Handler(app)
}

// guard lets pages load and connect to this server alone.
func guard(next mizu.Handler) mizu.Handler {
	return func(c *mizu.Ctx) error {
		h := c.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "+
			"require-trusted-types-for 'script'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		return next(c)
	}
}

func (c *Chat) page(ctx *mizu.Ctx) error {
	knowPerson(ctx.Writer(), ctx.Request())
	ctx.Header().Set("Content-Type", "text/html; charset=utf-8")
	return index.Execute(ctx.Writer(), map[string]any{
		"Rooms": readyRooms, "MaxName": maxName, "MaxText": maxText,
	})
}

func (c *Chat) listMessages(ctx *mizu.Ctx) error {
	room := ctx.Param("room")
	if !roomName.MatchString(room) {
		return fail(ctx, http.StatusNotFound, errRoomName)
	}
	said, err := c.History(ctx.Request().Context(), room)
	if err != nil {
		return fail(ctx, http.StatusServiceUnavailable, err)
	}
	return ctx.JSON(http.StatusOK, map[string]any{"messages": said})
}

// postMessage publishes from an HTTP handler. Nobody is asked who they are, so
// the page marks what came this way.
func (c *Chat) postMessage(ctx *mizu.Ctx) error {
	post, status, err := readPost(ctx)
	if err != nil {
		return fail(ctx, status, err)
	}
	said, err := c.Say(ctx.Param("room"), message{Name: post.User, Text: post.Text, Via: "http"})
	switch {
	case errors.Is(err, errRoomName):
		return fail(ctx, http.StatusNotFound, err)
	case errors.Is(err, live.ErrUnavailable):
		return fail(ctx, http.StatusServiceUnavailable, errAway)
	case errors.Is(err, errTaken), errors.Is(err, live.ErrServerClosed):
		return fail(ctx, http.StatusServiceUnavailable, err)
	case err != nil:
		return fail(ctx, http.StatusBadRequest, err)
	}
	return ctx.JSON(http.StatusAccepted, said)
}

type post struct {
	User string `json:"user"`
	Text string `json:"text"`
}

// readPost reads a form or JSON. With an error comes the status for it.
func readPost(ctx *mizu.Ctx) (p post, status int, err error) {
	r := ctx.Request()
	r.Body = http.MaxBytesReader(ctx.Writer(), r.Body, maxBody)
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/json":
		err = json.NewDecoder(r.Body).Decode(&p)
	case "application/x-www-form-urlencoded":
		err = r.ParseForm()
		p = post{User: r.PostForm.Get("user"), Text: r.PostForm.Get("text")}
	default:
		return p, http.StatusUnsupportedMediaType, errors.New("send a form or JSON, with user and text")
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return p, http.StatusRequestEntityTooLarge, errLongText
	case err != nil:
		return p, http.StatusBadRequest, errors.New("the body is not understood: send a form or JSON, with user and text")
	}
	return p, 0, nil
}

func fail(ctx *mizu.Ctx, status int, err error) error {
	text := err.Error()
	var refused *live.ClientError
	if errors.As(err, &refused) {
		text = refused.Message
	}
	return ctx.JSON(status, map[string]string{"error": text})
}
