// Package websession lets HTTP handlers, OnAuth and live sessions share one cookie session.
// When a session ends, its sockets are closed. The package works on top of scs, whose
// SessionManager keeps the settings: lifetime, cookie, codec and store.
//
//	sessions := websession.New(nil, websession.Options{}) // in memory
//	server := sessions.NewServer(live.Options{OnAuth: websession.Authenticate("username")})
//	mux.Handle("/live", server.Handler())
//	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
//		s := websession.FromRequest(r)
//		s.RenewToken()
//		s.Set("username", name)
//	})
//	web := &http.Server{Addr: addr, Handler: sessions.Middleware(mux), ReadHeaderTimeout: 5 * time.Second}
//	server.Run(ctx, web.ListenAndServe, web.Shutdown)
//
// # A session in a request and on a socket
//
// Until the head of the response is sent, a Session works on the request's copy. Its changes
// are saved just before the head, and the head sets the cookie. This is also so for the 101 of
// a WebSocket handshake. After the head, and so always on a socket, each call of the same
// Session reads or writes the store. There is no copy that could be out of date.
//
// No change overwrites another one. A request saves only the keys that it has changed. A call
// on a socket writes only if nobody else has written since the call read the session.
// Otherwise it tries again.
//
// # A session that has ended stays ended
//
// Sign-out deletes the session from the store. A request that began earlier, or a Set on a
// socket at the same time, cannot write the session back: its changes are dropped. With a
// Store, such as the one of package sqlitestore, this holds across processes, since an update
// of a row never creates the row. Any other scs store can only find, overwrite and delete.
// With such a store it holds within one process. Between two processes, a write in the few
// milliseconds before the news of the sign-out arrives can put the row back. The process that
// wrote it deletes the row again if it has a socket of the session. A process that has heard
// the news never accepts the row as a session.
//
// # Sockets end with their session
//
// Destroy closes every socket of the session on every server of the Broker, with
// live.CloseRevoked. After this code live.js does not reconnect. RenewToken and expiry close
// the sockets with live.CloseSignInExpired. After this code live.js dials again, with the new
// cookie. If something else deletes the session, for example another program that uses the
// same database, a regular check finds this within half a minute and closes the sockets.
//
// # What can fail
//
// A call of the store ends after about 15 seconds in a request, and after five on a socket, if
// the store obeys contexts. An error of the store is logged at a bounded rate. The errors of
// package sqlitestore say what to do. If the session of a request cannot be read or saved, the
// SessionManager's ErrorFunc answers the request. Such a request is never handled as if its
// user had not signed in.
//
// The session is saved just before the head of the response is sent. If the handler holds the
// last connection of the store's pool at that moment, Write returns an error to the handler.
// With a pool of one connection, open rows are enough for that.
//
// # What is secret
//
// The token is the cookie's value, and ID returns it. Whoever has the token has the session.
// It is never logged and never broadcast. The Fingerprint is logged and broadcast in its
// place, and may be shown to anyone.
package websession
