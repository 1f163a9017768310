package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
)

const (
	personCookie = "chat_person"

	// personAge is how long a browser stays the same person: a year.
	personAge = 365 * 24 * 60 * 60
)

// knowPerson gives a browser the cookie by which its person is known, in every
// tab and after a restart of the server, which keeps no list of them.
func knowPerson(w http.ResponseWriter, r *http.Request) {
	if _, err := r.Cookie(personCookie); err == nil {
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name:     personCookie,
		Value:    rand.Text(),
		Path:     "/",
		MaxAge:   personAge,
		HttpOnly: true,
		Secure:   r.TLS != nil,
		SameSite: http.SameSiteLaxMode,
	})
}

// personOf returns the public name of the cookie's person, from which the
// cookie cannot be told. Who brings no cookie is someone new each time.
func personOf(r *http.Request) string {
	secret := rand.Text()
	if cookie, err := r.Cookie(personCookie); err == nil && cookie.Value != "" {
		secret = cookie.Value
	}
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:8])
}
