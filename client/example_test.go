package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/livetopic/livetopic/client"
)

func ExampleHandler() {
	mux := http.NewServeMux()
	mux.Handle("GET /live.js", client.Handler())

	srv := httptest.NewServer(mux)
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/live.js")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	fmt.Println(resp.Status, resp.Header.Get("Content-Type"))
	// Output: 200 OK text/javascript; charset=utf-8
}

func ExampleFiles() {
	mux := http.NewServeMux()
	mux.Handle("GET /live.js", client.Handler())  // live.js alone
	mux.Handle("GET /livetopic/", client.Files()) // /livetopic/live.js, element.js, react.js, …

	srv := httptest.NewServer(mux)
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/livetopic/element.js")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	fmt.Println(resp.Status, resp.Header.Get("Content-Type"))
	// Output: 200 OK text/javascript; charset=utf-8
}
