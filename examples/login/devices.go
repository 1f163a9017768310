package main

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/websession"
)

// devicesPrefix and a name are the topic on which that person's devices are published, all
// of them, whenever something changes.
const devicesPrefix = "devices:"

// findTimeout bounds how long the store is asked for the sessions of a person.
const findTimeout = 5 * time.Second

// device is a session, as its owner sees it.
type device struct {
	ID    string    `json:"id"` // the fingerprint, which lets nobody in
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	Tabs  int       `json:"tabs"` // that are open
}

// Devices tells people where they are signed in.
type Devices struct {
	sessions *websession.Manager
	live     *live.Server

	mu   sync.Mutex     // held while a list is made and published: no older one comes later
	tabs map[string]int // open sockets, by the session's fingerprint
}

// NewDevices returns devices without a server yet.
func NewDevices(sessions *websession.Manager) *Devices {
	return &Devices{sessions: sessions, tabs: make(map[string]int)}
}

// Opened counts one more tab of a session.
func (d *Devices) Opened(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tabs[id]++
}

// Closed counts one less. It may come without an Opened, if the session ended during the
// handshake.
func (d *Devices) Closed(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.tabs[id]--; d.tabs[id] <= 0 {
		delete(d.tabs, id)
	}
}

// Show publishes the list of a person.
func (d *Devices) Show(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
	defer cancel()
	d.mu.Lock()
	defer d.mu.Unlock()
	list, err := d.list(ctx, name)
	if err == nil {
		err = live.Publish(d.live, devicesPrefix+name, list)
	}
	if err != nil {
		slog.Warn("login: devices not shown", "err", err)
	}
}

// List returns the devices of a person, the newest first.
func (d *Devices) List(ctx context.Context, name string) ([]device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list(ctx, name)
}

func (d *Devices) list(ctx context.Context, name string) ([]device, error) {
	found, err := d.sessions.Find(ctx, of(name))
	if err != nil {
		return nil, err
	}
	list := make([]device, 0, len(found))
	for _, s := range found {
		id := s.Fingerprint()
		since := s.GetTime("since")
		if since.IsZero() {
			continue // it has ended this moment
		}
		list = append(list, device{ID: id, Name: s.GetString("device"), Since: since, Tabs: d.tabs[id]})
	}
	slices.SortFunc(list, func(a, b device) int {
		return cmp.Or(b.Since.Compare(a.Since), strings.Compare(a.ID, b.ID))
	})
	return list, nil
}

// End ends one session of a person, or all of them if id is "".
func (d *Devices) End(ctx context.Context, name, id string) error {
	found, err := d.sessions.Find(ctx, of(name))
	if err != nil {
		return err
	}
	for _, s := range found {
		if id != "" && s.Fingerprint() != id {
			continue
		}
		if err := s.Destroy(); err != nil {
			return err
		}
	}
	return nil
}

// of matches the sessions of a person.
func of(name string) func(map[string]any) bool {
	return func(values map[string]any) bool { return values["username"] == name }
}

// deviceOf makes a name of what a browser says of itself.
func deviceOf(userAgent string) string {
	browser := firstIn(userAgent, "Firefox", "Edg:Edge", "OPR:Opera", "Chrome", "Safari", "curl")
	system := firstIn(userAgent, "Android", "iPhone", "iPad", "Windows", "Mac OS:macOS", "Linux")
	switch {
	case browser == "":
		return "Unknown browser"
	case system == "":
		return browser
	}
	return browser + " on " + system
}

// firstIn returns the first word that is in s, or what stands after its colon.
func firstIn(s string, words ...string) string {
	for _, word := range words {
		sign, name, renamed := strings.Cut(word, ":")
		if !strings.Contains(s, sign) {
			continue
		}
		if renamed {
			return name
		}
		return sign
	}
	return ""
}
