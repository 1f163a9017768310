package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/livetopic/livetopic/live"
)

// Who issues the tokens, and for whom: one of another server, or for another purpose, is
// not good here, even if it was signed with the same key.
const (
	issuerName = "livetopic example"
	audience   = "live"
)

// claims are what a token says. They are the session's Value.
type claims struct {
	jwt.RegisteredClaims
}

// UserID is whose session it is, for DisconnectUser.
func (c *claims) UserID() string { return c.Subject }

// issuer makes tokens and checks them, with one key for both.
type issuer struct {
	key  []byte
	life time.Duration
}

// issue returns a token for a user, whose password somebody has checked before.
func (i *issuer) issue(user string) (string, error) {
	now := time.Now()
	return jwt.NewWithClaims(jwt.SigningMethodHS256, &claims{jwt.RegisteredClaims{
		Issuer:    issuerName,
		Audience:  jwt.ClaimStrings{audience},
		Subject:   user,
		IssuedAt:  jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(i.life)),
	}}).SignedString(i.key)
}

// check returns what a token says, if it is one of ours. The method is named: a token must
// not choose by which it is checked.
func (i *issuer) check(token string) (*claims, error) {
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithIssuer(issuerName),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
	)
	c := &claims{}
	_, err := parser.ParseWithClaims(token, c, func(*jwt.Token) (any, error) { return i.key, nil })
	if err != nil {
		return nil, err
	}
	if c.Subject == "" {
		return nil, errors.New("token: it is nobody's")
	}
	return c, nil
}

// tokenOf returns the token of a handshake: from the Authorization header, as programs send
// it; from a subprotocol, as live.js does, since a page can set no header; or from the
// address, for what can do neither. The last ends up in the logs of proxies, so it
// should be valid for seconds.
func tokenOf(r *http.Request) string {
	if token := live.Token(r); token != "" {
		return token
	}
	return r.URL.Query().Get("token")
}

// authenticate is the live server's OnAuth.
func (i *issuer) authenticate(_ context.Context, r *http.Request) (any, error) {
	return i.check(tokenOf(r))
}

// expire is its OnConnect: the session ends when its token does, with the code that has
// live.js fetch another.
func expire(_ context.Context, s *live.Session) error {
	s.ExpireAt(s.Value().(*claims).ExpiresAt.Time)
	return nil
}
