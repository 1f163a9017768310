package main

import (
	"context"
	"database/sql"
	"net/http"
	"strings"
	"time"

	"github.com/go-mizu/mizu"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// lifetime is how long a sign-in lasts, used or not.
const lifetime = 24 * time.Hour

// Options configures an App. The zero value is for development.
type Options struct {
	Secure     bool        // the browser comes over https
	Broker     live.Broker // shared with other servers on the same database; nil: there are none
	Iterations int         // of the passwords' hashes; 0: as many as today should be. Tests take few
}

// App is the program: its people, their sessions, and the live server through which
// their pages hear of them.
type App struct {
	people   *People
	sessions *websession.Manager
	live     *live.Server
	devices  *Devices
}

// NewApp returns an app that keeps all it knows in a database.
func NewApp(db *sql.DB, o Options) (*App, error) {
	people, err := OpenPeople(db, o.Iterations)
	if err != nil {
		return nil, err
	}
	sm, err := websession.NewSQLiteSessionManager(db)
	if err != nil {
		return nil, err
	}
	sm.Lifetime = lifetime
	sm.Cookie.SameSite = http.SameSiteLaxMode // a link from elsewhere finds who is signed in, a form does not
	if o.Secure {
		sm.Cookie.Secure = true
		sm.Cookie.Name = "__Host-session" // no other host of the domain can set it
	}
	a := &App{people: people, sessions: websession.New(sm, websession.Options{})}
	a.devices = NewDevices(a.sessions)
	a.live = a.sessions.NewServer(live.Options{
		Broker:      o.Broker,
		OnAuth:      websession.Authenticate("username"),
		OnConnect:   a.connected,
		OnSubscribe: a.mayHear,
		OnClose:     a.closed,
		Topics:      func(string) live.TopicOptions { return live.TopicOptions{History: 1, Overflow: live.OverflowLatest} },
	})
	a.devices.live = a.live
	return a, nil
}

// Shutdown closes every socket; pages come back by themselves when there is a server again.
func (a *App) Shutdown(ctx context.Context) error { return a.live.Shutdown(ctx) }

// session returns the session of a request.
func session(c *mizu.Ctx) *websession.Session { return websession.FromRequest(c.Request()) }

// authRequired lets nobody through who has not signed in.
func authRequired(next mizu.Handler) mizu.Handler {
	return func(c *mizu.Ctx) error {
		if session(c).GetString("username") == "" {
			if err := session(c).Set("flash", "Please sign in first."); err != nil {
				return err
			}
			return c.Redirect(http.StatusSeeOther, "/login")
		}
		return next(c)
	}
}

// wrongPassword does not say which of the two is wrong: that would tell who may sign in.
const wrongPassword = "Wrong name or password."

func (a *App) loginPage(c *mizu.Ctx) error {
	if session(c).GetString("username") != "" {
		return c.Redirect(http.StatusSeeOther, "/")
	}
	flash, name := session(c).PopString("flash"), session(c).PopString("tried") // read once
	return show(c, "login.html", map[string]any{
		"Flash": flash, "Wrong": flash == wrongPassword, "Name": name,
	})
}

func (a *App) login(c *mizu.Ctx) error {
	r := c.Request()
	r.Body = http.MaxBytesReader(c.Writer(), r.Body, maxForm)
	name, password := r.PostFormValue("username"), r.PostFormValue("password")
	s := session(c)
	known, err := a.people.Check(c.Context(), name, password)
	if err != nil {
		return err
	}
	if !known {
		err := s.Update(func(values map[string]any) error {
			values["flash"] = wrongPassword
			values["tried"] = strings.ToValidUTF8(name[:min(len(name), maxName)], "")
			return nil
		})
		if err != nil {
			return err
		}
		return c.Redirect(http.StatusSeeOther, "/login")
	}
	// The token first: one that somebody slipped into this browser is worth nothing then.
	if err := s.RenewToken(); err != nil {
		return err
	}
	err = s.Update(func(values map[string]any) error {
		values["username"] = name
		values["device"] = deviceOf(r.UserAgent())
		values["since"] = time.Now().UTC()
		return nil
	})
	if err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, "/")
}

// logout ends this session, and with it the sockets of all of this browser's tabs.
func (a *App) logout(c *mizu.Ctx) error {
	s := session(c)
	name := s.GetString("username")
	if err := s.Destroy(); err != nil {
		return err
	}
	a.devices.Show(name)
	return a.goodbye(c, "You are signed out.")
}

// logoutEverywhere ends the sessions of this person on all devices.
func (a *App) logoutEverywhere(c *mizu.Ctx) error {
	s := session(c)
	name := s.GetString("username")
	if err := a.devices.End(c.Context(), name, ""); err != nil {
		return err
	}
	if err := s.Destroy(); err != nil { // for its cookie
		return err
	}
	return a.goodbye(c, "You are signed out on all devices.")
}

// logoutDevice ends one of this person's sessions.
func (a *App) logoutDevice(c *mizu.Ctx) error {
	name := session(c).GetString("username")
	if err := a.devices.End(c.Context(), name, c.Param("device")); err != nil {
		return err
	}
	a.devices.Show(name)
	return c.Redirect(http.StatusSeeOther, "/")
}

// goodbye shows the login page with a message, which a new session carries there.
func (a *App) goodbye(c *mizu.Ctx, message string) error {
	if err := session(c).Set("flash", message); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, "/login")
}

func (a *App) connected(_ context.Context, s *live.Session) error {
	a.devices.Opened(websession.FromLive(s).Fingerprint())
	a.devices.Show(s.Value().(string))
	return nil
}

func (a *App) closed(s *live.Session, _ error) {
	a.devices.Closed(websession.FromLive(s).Fingerprint())
	a.devices.Show(s.Value().(string))
}

// mayHear lets everyone hear of their own devices.
func (a *App) mayHear(_ context.Context, s *live.Session, topic string) error {
	if topic != devicesPrefix+s.Value().(string) {
		return &live.ClientError{Code: "forbidden", Message: "that is not yours"}
	}
	return nil
}
