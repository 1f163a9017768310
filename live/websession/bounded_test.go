package websession

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alexedwards/scs/v2"
)

// stalled is a store whose calls end only with their contexts.
type stalled struct{ scs.Store }

func (stalled) FindCtx(ctx context.Context, key string) ([]byte, bool, error) {
	<-ctx.Done()
	return nil, false, fmt.Errorf("GET %s: %w", key, ctx.Err())
}

func (stalled) CommitCtx(ctx context.Context, _ string, _ []byte, _ time.Time) error {
	<-ctx.Done()
	return ctx.Err()
}

func (stalled) DeleteCtx(ctx context.Context, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

func (stalled) AllCtx(ctx context.Context) (map[string][]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A store that does not answer cannot keep a request waiting for ever, though the request has no
// deadline of its own.
func TestAStalledStoreIsGivenUp(t *testing.T) {
	sm := scs.New() // outside the bubble, since its first store has a goroutine
	sm.Store = stalled{}
	sm.ErrorFunc = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusInternalServerError) }
	synctest.Test(t, func(t *testing.T) {
		var logs strings.Builder
		m := New(sm, Options{Logger: slog.New(slog.NewTextHandler(&logs, nil))})
		ask := func(token string, h func(w http.ResponseWriter, s *Session)) (status int) {
			r := httptest.NewRequest("GET", "/", nil)
			if token != "" {
				r.AddCookie(&http.Cookie{Name: "session", Value: token})
			}
			w := httptest.NewRecorder()
			m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h(w, FromRequest(r)) })).ServeHTTP(w, r)
			return w.Code
		}
		for name, call := range map[string]func(){
			"a request": func() {
				if status := ask("secret", func(http.ResponseWriter, *Session) { t.Error("the handler was called") }); status != http.StatusInternalServerError {
					t.Errorf("answered with %d", status)
				}
			},
			"a new session": func() {
				status := ask("", func(w http.ResponseWriter, s *Session) {
					s.Set("a", 1)
					if _, err := io.WriteString(w, "x"); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("the handler was told %v", err)
					}
				})
				if status != http.StatusInternalServerError {
					t.Errorf("answered with %d", status)
				}
			},
			"scs without a request": func() {
				if _, err := sm.Load(context.Background(), "secret"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("load returned %v", err)
				}
				if err := sm.Store.Delete("secret"); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("delete returned %v", err)
				}
			},
			"a list": func() {
				if _, err := m.Find(context.Background(), func(map[string]any) bool { return true }); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("find returned %v", err)
				}
			},
		} {
			logs.Reset()
			began := time.Now()
			call()
			if took := time.Since(began); took < callTimeout || took > listTimeout {
				t.Errorf("%s was given up after %v", name, took)
			}
			if !strings.Contains(logs.String(), "a call of the session store failed") || strings.Contains(logs.String(), "secret") {
				t.Errorf("%s: logged %q", name, logs.String())
			}
		}
	})
}
