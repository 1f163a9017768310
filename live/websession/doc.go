// Package websession lets handlers, OnAuth and live sessions share one cookie session,
// and ends the sockets of a session that ends. It works on top of scs, whose
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
//	http.ListenAndServe(addr, sessions.Middleware(mux))
//
// # One session, two ways to it
//
// Until the head of the response is sent, a Session is the request's: what is set is
// saved with the head, and the cookie goes with it, also on the 101 of a WebSocket
// handshake. From then on, on a socket above all, the same Session reads and writes the
// store, each call by itself: there is no copy that could be stale.
//
// Changes are never lost to each other. A request saves only the keys that it has changed,
// and a call on a socket writes only if nobody wrote in between, else it tries again.
//
// # A session that has ended stays ended
//
// Sign-out deletes the session from the store. Whatever was under way then, a request that
// began before or a Set on a socket, is dropped and never writes it anew. With a Store,
// as package sqlitestore has one, this holds across processes, since an update of a row
// never creates one. Any other scs store can only find, overwrite and delete. There it
// holds within a process; between two, a write that falls into the few milliseconds
// before the news of the sign-out arrives can put the row back. The process that did it
// deletes the row again if it has a socket of the session, and no process that has heard
// the news takes it for a session.
//
// # Sockets end with their session
//
// Destroy closes every socket of the session on every server of the Broker, with
// live.CloseRevoked, upon which live.js stays away. RenewToken and expiry close them with
// live.CloseSignInExpired, upon which it dials again, with the new cookie. If somebody else
// deleted the session, another program in the database, say, the sockets are closed
// when that is noticed, within half a minute.
//
// # What can fail
//
// A call of the store in a request ends after some 15 seconds, and on a socket after five, if
// the store heeds contexts. Its error is logged at a bounded rate, and those of package
// sqlitestore say what to do. A request whose session cannot be read or saved is answered by the
// SessionManager's ErrorFunc. It is never taken for one of a user who has not signed in.
//
// The session is saved when the head of the response is sent. A handler that holds the last connection
// of the store's pool then, as with open rows of a pool of one, gets an error from Write.
//
// # What is secret
//
// Whoever has the token, which is the cookie's value and what ID returns, has the
// session. It is never logged and never broadcast. What is, and may be shown to anyone,
// is the Fingerprint.
package websession
