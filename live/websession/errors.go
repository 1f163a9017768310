package websession

import "errors"

var (
	// ErrNoSession is returned by a method that changes the session, if there is no session to
	// change. The session has ended, or the *Session is nil, or the head of the response was
	// sent before anything was set, so that there is no cookie.
	ErrNoSession = errors.New("websession: there is no session, or it has ended")

	// ErrHeadSent is returned when it is too late to set a cookie: by RenewToken on a socket,
	// or in a handler that has begun its response.
	ErrHeadSent = errors.New("websession: the token cannot be renewed here: " +
		"the head of the response, which sets the cookie, has been sent; let the page make a new request and renew there")
)
