package inspector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/livetopic/livetopic/live"
)

// body decodes the JSON of a request.
func body[T any](r *http.Request) (v T, err error) {
	var tooLarge *http.MaxBytesError
	switch err := json.NewDecoder(r.Body).Decode(&v); {
	case errors.As(err, &tooLarge):
		return v, problemf(http.StatusRequestEntityTooLarge, "the request has more than %d bytes", maxBody)
	case err != nil:
		return v, problemf(http.StatusBadRequest, "the request is not valid JSON: %v", err)
	}
	return v, nil
}

// done is the answer to an action.
type done struct {
	Done string `json:"done"` // for the person
}

// logAction notes an action of a person.
func (in *inspector) logAction(r *http.Request, message string, args ...any) {
	in.opts.Logger.Info(message, append([]any{"remote", r.RemoteAddr}, args...)...)
}

// close closes a session of this server.
func (in *inspector) close(r *http.Request) (any, error) {
	request, err := body[struct {
		ID     string `json:"id"`
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	}](r)
	if err != nil {
		return nil, err
	}
	s, err := in.find(request.ID)
	if err != nil {
		return nil, err
	}
	if err := s.Disconnect(request.Code, request.Reason); err != nil {
		return nil, problemf(http.StatusBadRequest, "%v", err)
	}
	in.logAction(r, "live inspector: session closed", "session", s.ID(), "user", s.UserID(), "code", request.Code)
	return done{"The session is closed."}, nil
}

// publish publishes to a topic.
func (in *inspector) publish(r *http.Request) (any, error) {
	request, err := body[struct {
		Topic string `json:"topic"`
		Data  string `json:"data"` // JSON
		Key   string `json:"key"`
		ID    string `json:"id"`
	}](r)
	if err != nil {
		return nil, err
	}
	at, err := in.server.PublishContext(r.Context(), request.Topic, []byte(request.Data), live.Key(request.Key), live.ID(request.ID))
	switch {
	case errors.Is(err, live.ErrUnavailable), errors.Is(err, live.ErrServerClosed):
		return nil, problemf(http.StatusServiceUnavailable, "%v", err)
	case err != nil:
		return nil, problemf(http.StatusBadRequest, "%v", err)
	}
	in.logAction(r, "live inspector: published", "topic", request.Topic, "bytes", len(request.Data))
	if at == (live.Position{}) {
		return done{"Published. The topic keeps no history."}, nil
	}
	return done{"Published at " + at.String() + "."}, nil
}

// drainTimeout is how long the context of Options.Drain lives.
const drainTimeout = time.Minute

// drain has the application end this server.
func (in *inspector) drain(r *http.Request) (any, error) {
	if in.draining.Swap(true) {
		return done{"The server is draining already."}, nil
	}
	in.logAction(r, "live inspector: drain")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), drainTimeout)
	go func() { // ends when the application has drained the server
		defer cancel()
		if err := in.callDrain(ctx); err != nil {
			in.draining.Store(false)
			in.opts.Logger.Warn("live inspector: the server was not drained", "err", err)
		}
	}()
	return done{"The server begins to drain."}, nil
}

// callDrain calls Options.Drain, and returns a panic as an error. net/http recovers panics only in its own
// goroutines, so in this one a panic would end the program.
func (in *inspector) callDrain(ctx context.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("it panicked: %v\n%s", v, debug.Stack())
		}
	}()
	return in.opts.Drain(ctx)
}
