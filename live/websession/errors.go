package websession

import "errors"

var (
	// ErrNoSession is returned by what would change a session that has ended, or that
	// never was: one without a cookie after the head of the response is sent, or the
	// nil *Session.
	ErrNoSession = errors.New("websession: there is no session, or it has ended")

	// ErrHeadSent is returned where a cookie would have to be set, and cannot be any
	// more: by RenewToken on a socket, or in a handler that has begun to answer.
	ErrHeadSent = errors.New("websession: the token cannot be renewed here: " +
		"the response's head is sent, and the cookie with it; have the page make a request for it")
)
