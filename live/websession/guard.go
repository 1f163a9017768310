package websession

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"time"
)

// guard stands between scs and the store. Before a request writes a session, guard checks that
// the session is as the request has read it. It also learns which sessions end.
type guard struct{ m *Manager }

func (g *guard) FindCtx(ctx context.Context, key string) ([]byte, bool, error) {
	r, found, err := g.m.find(ctx, key)
	if err != nil || !found {
		return nil, false, err
	}
	if v := g.m.visitOf(ctx); v != nil {
		v.setLoaded(key, r)
	}
	return r.data, true, nil
}

// CommitCtx writes a new session, or changes a session that the request has read. If that
// session has ended since, the changes are dropped. This is not an error: the user has signed
// out.
func (g *guard) CommitCtx(ctx context.Context, key string, b []byte, expiry time.Time) error {
	v := g.m.visitOf(ctx)
	if v == nil {
		return g.commitWithoutVisit(ctx, key, b, expiry)
	}
	if v.settled.Load() {
		return ErrHeadSent
	}
	base, known := v.getLoaded(key)
	if !known && !v.presents(key) {
		return g.insert(ctx, v, key, b, expiry)
	}
	var found bool
	var err error
	if !known { // scs's own middleware, around ours, has read it
		base, found, err = g.m.find(ctx, key)
	}
	if known || found {
		base, found, err = g.m.merge(ctx, key, base, b, expiry)
	}
	if err != nil {
		return err
	}
	if !found {
		v.dropped.Store(true)
		g.m.opts.Logger.Debug("websession: a request's changes are dropped: its session has ended", "session", fingerprint(key))
		return nil
	}
	v.setLoaded(key, base)
	g.m.sockets.extend(fingerprint(key), expiry)
	return nil
}

// insert writes a new session.
func (g *guard) insert(ctx context.Context, v *visit, key string, b []byte, expiry time.Time) error {
	if err := g.m.store.CommitCtx(ctx, key, b, expiry); err != nil {
		return err
	}
	r, found, err := g.m.find(ctx, key)
	if err == nil && found {
		v.setLoaded(key, r) // the request may commit again
	}
	return err
}

// commitWithoutVisit is for a context that did not come through Middleware. It is not known what
// its session was when it was read, so there is nothing to compare with.
func (g *guard) commitWithoutVisit(ctx context.Context, key string, b []byte, expiry time.Time) error {
	if g.m.ended.has(fingerprint(key)) {
		return nil
	}
	if err := g.m.store.CommitCtx(ctx, key, b, expiry); err != nil {
		return err
	}
	if g.m.ended.has(fingerprint(key)) { // it ended during the write
		return g.m.store.DeleteCtx(ctx, key)
	}
	g.m.sockets.extend(fingerprint(key), expiry)
	return nil
}

// DeleteCtx is called by scs in Destroy and in RenewToken.
func (g *guard) DeleteCtx(ctx context.Context, key string) error {
	if key == "" {
		return nil
	}
	v := g.m.visitOf(ctx)
	how := renewed // which of the two is not known; clients then dial again, which suits both
	if v != nil {
		how = v.currentEnding()
	}
	return g.m.destroy(ctx, key, how, v)
}

func (g *guard) Find(key string) ([]byte, bool, error) { return g.FindCtx(context.Background(), key) }

func (g *guard) Commit(key string, b []byte, expiry time.Time) error {
	return g.CommitCtx(context.Background(), key, b, expiry)
}

func (g *guard) Delete(key string) error { return g.DeleteCtx(context.Background(), key) }

// AllCtx lists the sessions for scs, if the store can list them.
func (g *guard) AllCtx(ctx context.Context) (map[string][]byte, error) {
	return listAll(ctx, g.m.store)
}

// merge writes b in place of base, the session as the request has read it. If another call has
// written in between, merge adds the request's own changes to what that call wrote. ok is false
// if the session has ended.
func (m *Manager) merge(ctx context.Context, key string, base record, b []byte, expiry time.Time) (r record, ok bool, err error) {
	current, data := base, b
	for {
		r, ok, err = m.update(ctx, key, current.version, data, expiry)
		if ok || err != nil {
			return r, ok, err
		}
		var found bool
		if current, found, err = m.find(ctx, key); err != nil || !found {
			return record{}, false, err
		}
		if data, err = m.mergeData(base.data, b, current.data); err != nil {
			return record{}, false, err
		}
	}
}

// update writes a session if the store still has this version of it. ok is false if it does not.
func (m *Manager) update(ctx context.Context, key string, version int64, data []byte, expiry time.Time) (r record, ok bool, err error) {
	if err := ctx.Err(); err != nil {
		return record{}, false, err
	}
	ok, err = m.store.Update(ctx, key, version, data, expiry)
	if err != nil {
		return record{}, false, fmt.Errorf("websession: write the session: %w", err)
	}
	if !ok {
		return record{}, false, nil
	}
	r = record{data: data, version: version + 1, expiry: expiry}
	if m.plain != nil {
		r.version = m.plain.version(data)
	}
	return r, true, nil
}

// mergeData returns theirs with the changes that lead from base to mine.
func (m *Manager) mergeData(base, mine, theirs []byte) ([]byte, error) {
	deadlineBefore, before, err := m.scs.Codec.Decode(base)
	if err != nil {
		return nil, err
	}
	deadline, after, err := m.scs.Codec.Decode(mine)
	if err != nil {
		return nil, err
	}
	deadlineNow, now, err := m.scs.Codec.Decode(theirs)
	if err != nil {
		return nil, err
	}
	if deadline.Equal(deadlineBefore) {
		deadline = deadlineNow
	}
	return m.scs.Codec.Encode(deadline, applyChanges(before, after, now))
}

// applyChanges returns now with the changes that lead from before to after.
func applyChanges(before, after, now map[string]any) map[string]any {
	merged := make(map[string]any, len(now))
	maps.Copy(merged, now)
	for key := range before {
		if _, kept := after[key]; !kept {
			delete(merged, key)
		}
	}
	for key, value := range after {
		if old, had := before[key]; !had || !reflect.DeepEqual(old, value) {
			merged[key] = value
		}
	}
	return merged
}
