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
	// Hundreds of writes that come at once take SQLite seconds on a slow disk. A store that
	// takes longer is down.
	callTimeout = 15 * time.Second

	// listTimeout bounds a list of all sessions: some 25 ms for a thousand of them.
	listTimeout = time.Minute
)

// bounded has every call of a store end, and tells the operator of those that fail. Only a
// store that heeds contexts can be bounded: scs's plain Store has none.
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
	b.tell("read", token, err)
	return data, version, expiry, found, err
}

func (b *bounded) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := b.Store.CommitCtx(ctx, token, data, expiry)
	b.tell("write", token, err)
	return err
}

func (b *bounded) Update(ctx context.Context, token string, version int64, data []byte, expiry time.Time) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ok, err := b.Store.Update(ctx, token, version, data, expiry)
	b.tell("write", token, err)
	return ok, err
}

func (b *bounded) DeleteCtx(ctx context.Context, token string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := b.Store.DeleteCtx(ctx, token)
	b.tell("delete", token, err)
	return err
}

// Expiries is called by the revalidation alone, which tells of the error itself.
func (b *bounded) Expiries(ctx context.Context, tokens []string) (map[string]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.Store.Expiries(ctx, tokens)
}

// AllCtx implements scs.IterableCtxStore, if the store can list its sessions.
func (b *bounded) AllCtx(ctx context.Context) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	rows, err := all(ctx, b.Store)
	if !errors.Is(err, errNotIterable) {
		b.tell("list", "", err)
	}
	return rows, err
}

// tell logs the error of a call, without the token that a store may have put into it. Package
// sqlitestore says in it what to do. A client that went away is no fault of the store.
func (b *bounded) tell(call, token string, err error) {
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
