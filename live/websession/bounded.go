package websession

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"
)

const (
	// callTimeout bounds a call of the store in a request, whose context may have no end.
	// Hundreds of simultaneous writes take SQLite seconds on a slow disk. A store that takes
	// longer than this is down.
	callTimeout = 15 * time.Second

	// listTimeout bounds a list of all sessions. A thousand of them take about 25 ms.
	listTimeout = time.Minute
)

// bounded gives every call of a store a deadline, and logs the calls that fail. A store that
// ignores contexts is not bounded, and the methods of scs.Store take no context.
type bounded struct {
	Store
	m *Manager
}

func (b *bounded) FindCtx(ctx context.Context, token string) ([]byte, bool, error) {
	data, _, _, found, err := b.FindVersion(ctx, token)
	return data, found, err
}

func (b *bounded) FindVersion(ctx context.Context, token string) (data []byte, version int64, expiry time.Time, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	data, version, expiry, found, err = b.Store.FindVersion(ctx, token)
	b.logError("read", token, err)
	return data, version, expiry, found, err
}

func (b *bounded) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := b.Store.CommitCtx(ctx, token, data, expiry)
	b.logError("write", token, err)
	return err
}

func (b *bounded) Update(ctx context.Context, token string, version int64, data []byte, expiry time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ok, err := b.Store.Update(ctx, token, version, data, expiry)
	b.logError("write", token, err)
	return ok, err
}

func (b *bounded) DeleteCtx(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := b.Store.DeleteCtx(ctx, token)
	b.logError("delete", token, err)
	return err
}

// Expiries logs no error: its only caller, the revalidation, does.
func (b *bounded) Expiries(ctx context.Context, tokens []string) (map[string]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.Store.Expiries(ctx, tokens)
}

// AllCtx implements scs.IterableCtxStore, if the store can list its sessions.
func (b *bounded) AllCtx(ctx context.Context) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := listAll(ctx, b.Store)
	if !errors.Is(err, errNotIterable) {
		b.logError("list", "", err)
	}
	return rows, err
}

// logError logs the error of a call. A store may have put the token into the error's text, so
// the token is replaced. A canceled context is not logged: the client went away, and the store
// is not at fault.
func (b *bounded) logError(call, token string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	text := err.Error()
	if token != "" {
		text = strings.ReplaceAll(text, token, "(the session's token)")
	}
	b.m.logLimited(slog.LevelError, "websession: a call of the session store failed",
		"call", call, "session", fingerprint(token), "err", text)
}
