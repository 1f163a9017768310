package main

import (
	"context"
	"embed"
	"io/fs"
	"net/http"
	"time"

	"github.com/go-mizu/mizu"

	"github.com/livetopic/livetopic/client"
	"github.com/livetopic/livetopic/live"
)

// Limits of POST /token.
const (
	maxForm = 1 << 10
	maxUser = 40
)

var (
	//go:embed page
	files embed.FS

	//go:embed page/index.html
	index string
)

type app struct {
	tokens *issuer
	live   *live.Server
}

func newApp(tokens *issuer) *app {
	return &app{tokens, live.New(live.Options{
		OnAuth:    tokens.authenticate,
		OnConnect: expire,
		OnRequest: whoAmI,
		Origins:   []string{"*"}, // no cookie is taken, so that a page of any site may ask
	})}
}

func (a *app) routes() http.Handler {
	assets, err := fs.Sub(files, "page")
	if err != nil {
		panic(err) // the files are compiled in: it cannot be
	}
	router := mizu.New()
	router.Use(guard)
	router.Compat.Handle("/live.js", client.Handler())
	router.Compat.Handle("/live", a.live.Handler())
	router.Post("/token", a.token)
	router.Static("/page/", http.FS(assets))
	router.Get("/{$}", func(c *mizu.Ctx) error { return c.HTML(http.StatusOK, index) })
	return router
}

// guard lets pages load from and connect to this server alone.
func guard(next mizu.Handler) mizu.Handler {
	return func(c *mizu.Ctx) error {
		c.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		c.Header().Set("X-Content-Type-Options", "nosniff")
		c.Header().Set("Referrer-Policy", "no-referrer")
		return next(c)
	}
}

// token issues one. Here everyone gets one under whatever name: a real program asks for a
// password, or for a token that lasts longer and can be revoked, before it does.
func (a *app) token(c *mizu.Ctx) error {
	r := c.Request()
	r.Body = http.MaxBytesReader(c.Writer(), r.Body, maxForm)
	user := r.PostFormValue("user")
	if user == "" || len(user) > maxUser {
		return c.Text(http.StatusBadRequest, "user has 1 to 40 bytes\n")
	}
	token, err := a.tokens.issue(user)
	if err != nil {
		return err
	}
	c.Header().Set("Cache-Control", "no-store")
	return c.JSON(http.StatusOK, map[string]string{"token": token})
}

// identity tells a page who it is, and until when.
type identity struct {
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
}

func whoAmI(_ context.Context, s *live.Session, topic string, _ []byte) (any, error) {
	if topic != "who" {
		return nil, &live.ClientError{Code: "forbidden", Message: "ask who"}
	}
	c := s.Value().(*claims)
	return identity{c.Subject, c.ExpiresAt.UTC()}, nil
}
