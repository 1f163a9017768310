package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/livetest"
)

func TestMain(m *testing.M) {
	// The app logs every request, which is of no use here.
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	stderr := os.Stderr
	os.Stderr = null
	code := m.Run()
	os.Stderr = stderr
	os.Exit(code)
}

var key = []byte(strings.Repeat("k", keySize))

// serve starts the program until the test ends.
func serve(t *testing.T, life time.Duration) (*issuer, *livetest.Server) {
	tokens := &issuer{key: key, life: life}
	app := newApp(tokens)
	t.Cleanup(func() { app.live.Shutdown(context.Background()) })
	return tokens, livetest.Serve(t, app.routes())
}

func issued(t *testing.T, server *livetest.Server) string {
	t.Helper()
	resp, err := server.Client().PostForm(server.URL+"/token", url.Values{"user": {"ana"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Token
}

func TestATokenLetsInWhicheverWayItComes(t *testing.T) {
	_, server := serve(t, time.Minute)
	token := issued(t, server)
	for name, signIn := range map[string]livetest.DialOption{
		"header":      livetest.Token(token),
		"subprotocol": livetest.PageToken(token),
		"query":       livetest.Path("/live?token=" + token),
	} {
		server.Dial(livetest.Name(name), signIn)
	}
	server.ExpectRefused(http.StatusUnauthorized)
}

func TestOnlyOurTokensAreGood(t *testing.T) {
	tokens, _ := serve(t, time.Minute)
	good := jwt.MapClaims{"iss": issuerName, "aud": audience, "sub": "ana", "exp": time.Now().Add(time.Minute).Unix()}
	with := func(name string, value any) jwt.MapClaims {
		c := jwt.MapClaims{}
		for k, v := range good {
			c[k] = v
		}
		if c[name] = value; value == nil {
			delete(c, name)
		}
		return c
	}
	sign := func(method jwt.SigningMethod, key any, c jwt.Claims) string {
		token, err := jwt.NewWithClaims(method, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	if c, err := tokens.check(sign(jwt.SigningMethodHS256, key, good)); err != nil || c.UserID() != "ana" {
		t.Errorf("a good one: %v", err)
	}
	for name, token := range map[string]string{
		"none":             "",
		"nonsense":         "a.b.c",
		"another key":      sign(jwt.SigningMethodHS256, []byte(strings.Repeat("x", keySize)), good),
		"no signature":     sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good),
		"another method":   sign(jwt.SigningMethodHS512, key, good),
		"expired":          sign(jwt.SigningMethodHS256, key, with("exp", time.Now().Add(-time.Second).Unix())),
		"no expiry":        sign(jwt.SigningMethodHS256, key, with("exp", nil)),
		"another issuer":   sign(jwt.SigningMethodHS256, key, with("iss", "evil")),
		"another audience": sign(jwt.SigningMethodHS256, key, with("aud", "mail")),
		"nobody's":         sign(jwt.SigningMethodHS256, key, with("sub", nil)),
	} {
		if _, err := tokens.check(token); err == nil {
			t.Errorf("%s was let in", name)
		}
	}
}

func TestASessionEndsWithItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, server := serve(t, time.Hour)
		ana := server.Dial(livetest.Token(issued(t, server)))
		time.Sleep(time.Hour - time.Second)
		ana.Sync() // its session is open
		time.Sleep(3 * time.Second)
		ana.ExpectClosed(live.CloseSignInExpired)
	})
}
