package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
)

func TestInspectorShowsThisMachineWhatHappens(t *testing.T) {
	chat, url := serve(t, 0)
	ana := open(t, url, "ana")
	ana.enter("general", "Ana")
	resp, err := http.Get(url + inspectPath + "topics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var topics struct{ Rows []struct{ Topic string } }
	if err := json.NewDecoder(resp.Body).Decode(&topics); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(topics.Rows, struct{ Topic string }{roomPrefix + "general"}) {
		t.Errorf("the topics are %v", topics.Rows)
	}
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", inspectPath, nil)
	r.RemoteAddr = "192.0.2.7:1234"
	if chat.Routes().ServeHTTP(w, r); w.Code != http.StatusForbidden {
		t.Errorf("another machine is answered with %d", w.Code)
	}
}
