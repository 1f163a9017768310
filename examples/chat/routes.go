package main

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/go-mizu/mizu"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/inspector"
)

// maxBody is the largest body of a POST: some messages at once.
const maxBody = 4 * readLimit

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
	app.Mount("/publish", c.live.PublishHandler(live.PublishHandlerOptions{Auth: anyone, OnPublish: c.said, MaxBytes: maxBody}))
	return app
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

// anyone lets in every program: rooms are public. A chat of one's own checks a token here.
func anyone(context.Context, *http.Request) (any, error) { return nil, nil }

// said makes a message of what a program publishes. Nobody is asked who they are, so the page marks
// what came this way.
func (c *Chat) said(_ context.Context, _ any, p *live.HTTPPublication) error {
	room, ok := strings.CutPrefix(p.Topic, roomPrefix)
	if !ok {
		return errNoTopic
	}
	if err := c.checkRoom(room); err != nil {
		return err
	}
	var m message
	if json.Unmarshal(p.Data, &m) != nil {
		return errUnclear
	}
	m = message{Key: rand.Text(), Name: m.Name, Text: m.Text, Time: time.Now().UTC(), Via: "http"}
	err := m.clean()
	if err == nil {
		p.Data, err = json.Marshal(m)
	}
	return err
}

func fail(ctx *mizu.Ctx, status int, err error) error {
	text := err.Error()
	var refused *live.ClientError
	if errors.As(err, &refused) {
		text = refused.Message
	}
	return ctx.JSON(status, map[string]string{"error": text})
}
