package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/livetopic/livetopic/live"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

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
func serve(t *testing.T, life time.Duration) (tokens *issuer, address string) {
	tokens = &issuer{key: key, life: life}
	app := newApp(tokens)
	server := httptest.NewServer(app.routes())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		app.live.Shutdown(ctx)
		server.Close()
	})
	return tokens, server.URL
}

// dial connects, with what a client adds.
func dial(t *testing.T, address, query string, header http.Header, protocols ...string) (*websocket.Conn, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, address+"/live"+query, &websocket.DialOptions{HTTPHeader: header, Subprotocols: protocols})
	if resp == nil {
		t.Fatal(err)
	}
	if err == nil {
		t.Cleanup(func() { ws.CloseNow() })
	}
	return ws, resp.StatusCode
}

func issued(t *testing.T, address string) string {
	t.Helper()
	resp, err := http.PostForm(address+"/token", url.Values{"user": {"ana"}})
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
	_, address := serve(t, time.Minute)
	token := issued(t, address)
	bearer := http.Header{"Authorization": {"Bearer " + token}}
	protocol := "live.token." + base64.RawURLEncoding.EncodeToString([]byte(token))
	for name, try := range map[string]func() int{
		"header":      func() int { _, status := dial(t, address, "", bearer); return status },
		"subprotocol": func() int { _, status := dial(t, address, "", nil, "live.v1", protocol); return status },
		"query":       func() int { _, status := dial(t, address, "?token="+token, nil); return status },
	} {
		if status := try(); status != http.StatusSwitchingProtocols {
			t.Errorf("%s: %d", name, status)
		}
	}
	if _, status := dial(t, address, "", nil); status != http.StatusUnauthorized {
		t.Errorf("without a token: %d", status)
	}
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
	_, address := serve(t, time.Second)
	ws, _ := dial(t, address, "?token="+issued(t, address), nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _, err := ws.Read(ctx)
	if code := websocket.CloseStatus(err); code != live.CloseSignInExpired {
		t.Errorf("closed with %d, %v", code, err)
	}
}
