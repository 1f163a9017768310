package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// seen is what /stats says.
type seen struct {
	Sessions, Tokens int
	Pages            map[string]visits
}

func serve(t *testing.T) (url string) {
	t.Helper()
	server := httptest.NewServer(newServer(0).routes())
	t.Cleanup(server.Close)
	return server.URL
}

// call makes a request and decodes the answer, if into is not nil.
func call(t *testing.T, method, url string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %s, %v", url, resp.StatusCode, body, err)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s: %s: %v", url, body, err)
	}
}

func dial(t *testing.T, url string, subprotocols ...string) (*websocket.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: append(subprotocols, "live.v1")})
	if err == nil {
		t.Cleanup(func() { ws.CloseNow() })
	}
	return ws, err
}

func TestPagesAreCounted(t *testing.T) {
	url := serve(t)
	for range 2 {
		if _, err := dial(t, url+"/live?page=a"); err != nil {
			t.Fatal(err)
		}
	}
	other, err := dial(t, url+"/live?page=b")
	if err != nil {
		t.Fatal(err)
	}
	other.CloseNow()

	var got seen
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		call(t, "GET", url+"/stats", &got)
		if got.Pages["a"] == (visits{Open: 2, Most: 2, Total: 2}) && got.Pages["b"] == (visits{Open: 0, Most: 1, Total: 1}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it has seen %+v", got)
		}
	}
	if got.Sessions != 2 {
		t.Errorf("%d sessions", got.Sessions)
	}
}

func TestOnlyTheNewestTokenIsValid(t *testing.T) {
	url := serve(t)
	call(t, "POST", url+"/token", nil)
	call(t, "POST", url+"/token", nil)
	if _, err := dial(t, url+"/live", "live.token.MQ"); err == nil { // 1
		t.Error("an old token was taken")
	}
	if _, err := dial(t, url+"/live", "live.token.Mg"); err != nil { // 2
		t.Errorf("the newest token was refused: %v", err)
	}
}

func TestTicksAreKept(t *testing.T) {
	url := serve(t)
	call(t, "POST", url+"/ticks?n=3", nil)
	ws, err := dial(t, url+"/live")
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"op":"subscribe","id":1,"topic":"ticks","last":2}`)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"op":"hello"`, `"messages":[{"data":2,`} {
		_, heard, err := ws.Read(t.Context())
		if err != nil || !strings.Contains(string(heard), want) {
			t.Fatalf("heard %s, %v, want %s", heard, err, want)
		}
	}
}

func TestTextsArePublishedAndUsersDisconnected(t *testing.T) {
	url := serve(t)
	ws, err := dial(t, url+"/live?page=ann")
	if err != nil {
		t.Fatal(err)
	}
	call(t, "POST", url+"/publish?topic=news&n=2&size=3", nil)
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"op":"subscribe","id":1,"topic":"news","last":5}`)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"op":"hello"`, `"xxx"`} {
		_, heard, err := ws.Read(t.Context())
		if err != nil || !strings.Contains(string(heard), want) {
			t.Fatalf("heard %s, %v, want %s", heard, err, want)
		}
	}
	call(t, "POST", url+"/disconnect?user=ann&reason=enough", nil)
	var closed websocket.CloseError
	if _, _, err := ws.Read(t.Context()); !errors.As(err, &closed) || closed.Code != 4001 || closed.Reason != "enough" {
		t.Errorf("the end is %v", err)
	}
}
