package main

import (
	"embed"
	"html/template"
	"io/fs"
	"net/http"

	"github.com/go-mizu/mizu"

	"github.com/livetopic/livetopic/client"
)

// maxForm is the largest body of a POST: a name and a password, percent-encoded.
const maxForm = 4 << 10

//go:embed page
var files embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"page": func(name string) map[string]string { return map[string]string{"Page": name} },
}).ParseFS(files, "page/*.html"))

// Routes is everything that the program serves.
func (a *App) Routes() http.Handler {
	assets, err := fs.Sub(files, "page/assets")
	if err != nil {
		panic(err) // the files are compiled in: it cannot be
	}
	app := mizu.New()
	app.Use(guard)
	app.Static("/assets/", http.FS(assets))
	app.Compat.Handle("/live.js", client.Handler())
	app.Compat.Handle("/live", a.live.Handler())
	app.Get("/login", a.loginPage)
	app.Post("/login", a.login)

	protected := app.With(authRequired)
	protected.Get("/{$}", a.devicesPage)
	protected.Get("/account", a.accountPage)
	protected.Post("/logout", a.logout)
	protected.Post("/logout/everywhere", a.logoutEverywhere)
	protected.Post("/devices/{device}/logout", a.logoutDevice)

	// No page of another site may post in a reader's name, whatever its cookies are.
	return http.NewCrossOriginProtection().Handler(a.sessions.Middleware(app))
}

// guard lets pages load from and post to this server alone, and has nobody keep them.
func guard(next mizu.Handler) mizu.Handler {
	return func(c *mizu.Ctx) error {
		h := c.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
			"connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "+
			"require-trusted-types-for 'script'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store") // nor shows them after the sign-out, at Back
		return next(c)
	}
}

func show(c *mizu.Ctx, page string, data any) error {
	c.Header().Set("Content-Type", "text/html; charset=utf-8")
	return pages.ExecuteTemplate(c.Writer(), page, data)
}

func (a *App) devicesPage(c *mizu.Ctx) error {
	s := session(c)
	name := s.GetString("username")
	list, err := a.devices.List(c.Context(), name)
	if err != nil {
		return err
	}
	return show(c, "devices.html", map[string]any{
		"Name": name, "Topic": devicesPrefix + name, "Here": s.Fingerprint(), "Devices": list,
	})
}

func (a *App) accountPage(c *mizu.Ctx) error {
	s := session(c)
	return show(c, "account.html", map[string]any{
		"Name": s.GetString("username"), "Device": s.GetString("device"),
		"Since": s.GetTime("since"), "Until": s.Deadline().UTC(),
	})
}
