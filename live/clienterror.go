package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// ClientError is an error that is sent to a live.v1 client as it is. OnSubscribe, OnPublish and
// OnRequest return a *ClientError to say more than "forbidden" or "internal".
type ClientError struct {
	// Code is for the program. The protocol has codes of its own, such as "forbidden".
	// docs/protocol.md says what they mean.
	Code string

	// Message is for a person.
	Message string
}

// Error returns the code and the message.
func (e *ClientError) Error() string { return fmt.Sprintf("live: %s: %s", e.Code, e.Message) }

var (
	errBadRequest  = &ClientError{"bad_request", "a member is missing or of the wrong kind"}
	errUnknownOp   = &ClientError{"unknown_op", "there is no such operation"}
	errForbidden   = &ClientError{"forbidden", "not allowed"}
	errUnavailable = &ClientError{"unavailable", "try again later"}
	errRateLimited = &ClientError{"rate_limited", "too many publications to this topic; try again later"}
	errFailed      = &ClientError{"internal", "internal error"}
)

type (
	// refusedByApp marks an error with which OnSubscribe or OnPublish refused the client.
	refusedByApp struct{ error }

	// failedInApp marks an error with which OnRequest failed.
	failedInApp struct{ error }
)

func forbidden(err error) error {
	if err == nil {
		return nil
	}
	return refusedByApp{err}
}

// clientError returns the error that the client is told.
func (s *Session) clientError(err error) *ClientError {
	var told *ClientError
	var large *largePresence
	switch app := err.(type) {
	case refusedByApp:
		switch {
		case errors.As(app.error, &told):
			return told
		case isTemporary(app.error):
			s.logFailure("live: operation failed", app.error)
			return errUnavailable
		}
		s.server.logOfClient(slog.LevelDebug, "live: client refused by a callback", "session", s.id, "user", s.user, "err", app.error)
		return errForbidden
	case failedInApp:
		switch {
		case errors.As(app.error, &told):
			return told
		case isTemporary(app.error):
			s.logFailure("live: request failed", app.error)
			return errUnavailable
		}
		s.server.logOfClient(slog.LevelWarn, "live: request failed", "session", s.id, "err", app.error)
		return errFailed
	}
	switch {
	case errors.As(err, &told):
		return told
	case errors.Is(err, ErrInvalidTopic):
		return &ClientError{"invalid_topic", "the topic is empty or too long"}
	case errors.Is(err, ErrTooManyTopics):
		return &ClientError{"too_many_topics", "too many topics"}
	case errors.Is(err, ErrNoHistory):
		return &ClientError{"no_history", "the topic keeps no history"}
	case errors.Is(err, ErrNoPresence):
		return &ClientError{"no_presence", "the topic does not tell who is present"}
	case errors.Is(err, ErrInvalidData):
		return errBadRequest
	case errors.As(err, &large):
		return &ClientError{"too_big", large.what}
	case errors.Is(err, ErrTooLarge):
		return &ClientError{"too_big", "the publication is too large"}
	case errors.Is(err, ErrNoKey):
		return errForbidden // only the application gives keys
	case errors.Is(err, ErrTooManyKeys):
		return &ClientError{"too_many_keys", "the topic is full"}
	case errors.Is(err, ErrSessionClosed), s.ctx.Err() != nil:
		return errUnavailable // the session has ended, so no client reads it
	}
	s.server.logOfClient(slog.LevelWarn, "live: operation failed", "session", s.id, "err", err)
	if isTemporary(err) {
		return errUnavailable
	}
	return errFailed
}

// logFailure logs that a callback could not decide. If the session has ended, that is why its context ended,
// and nobody waits for the answer.
func (s *Session) logFailure(message string, err error) {
	if s.ctx.Err() == nil {
		s.server.logOfClient(slog.LevelWarn, message, "session", s.id, "err", err)
	}
}

// isTemporary reports whether the same operation may succeed a little later. If a callback could not
// decide in time, it has not refused the client.
func isTemporary(err error) bool {
	for _, temporary := range []error{ErrUnavailable, ErrServerClosed, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, temporary) {
			return true
		}
	}
	return false
}
