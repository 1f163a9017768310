package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live/liveclient"
)

// connection says how to reach a server, and how to sign in.
type connection struct {
	url      string
	token    string
	header   headers
	cookie   string
	insecure bool
	timeout  time.Duration
}

// headers is a flag that may be given several times.
type headers http.Header

func (h headers) String() string { return "" }

func (h headers) Set(line string) error {
	name, value, ok := strings.Cut(line, ":")
	if !ok || strings.TrimSpace(name) == "" {
		return fmt.Errorf("it must look like %q", "Name: value")
	}
	http.Header(h).Add(strings.TrimSpace(name), strings.TrimSpace(value))
	return nil
}

func (c *connection) addFlags(flags *flag.FlagSet, getenv func(string) string) {
	url := getenv("LIVE_URL")
	if url == "" {
		url = "http://localhost:8080/live"
	}
	c.header = headers{}
	flags.StringVar(&c.url, "url", url, "`address` of the live handler: http, https, ws or wss")
	flags.StringVar(&c.token, "token", "", "sign in with this `token`, as a bearer token (default $LIVE_TOKEN)")
	flags.Var(c.header, "header", "send this `\"Name: value\"` with the handshake; may be repeated")
	flags.StringVar(&c.cookie, "cookie", "", "sign in with this cookie, `\"name=value\"`, as the browser's tools show it")
	flags.BoolVar(&c.insecure, "insecure", false, "do not check the server's certificate")
	flags.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to try to connect, and to wait for an answer")
}

// connect connects a client that tells the person at the shell how its connection does.
func (p *program) connect(ctx context.Context) (*liveclient.Client, error) {
	return p.connectWith(ctx, p.tellStatus(), p.tellError)
}

// connectWith connects a client. told is called for each change of its status, and failed for each error that no call returns.
func (p *program) connectWith(ctx context.Context, told func(liveclient.Status), failed func(error)) (*liveclient.Client, error) {
	c := &p.connection
	header := http.Header(c.header).Clone()
	if c.cookie != "" {
		header.Add("Cookie", c.cookie)
	}
	o := liveclient.Options{
		Header:      header,
		CallTimeout: c.timeout,
		OnStatus:    told,
		OnError:     failed,
		Logger:      slog.New(slog.DiscardHandler), // this program says it in its own words
	}
	token := c.token
	if token == "" && header.Get("Authorization") == "" { // what was given for this command counts more than the environment
		token = p.getenv("LIVE_TOKEN")
	}
	if token != "" {
		o.Token = liveclient.StaticToken(token)
	}
	if c.insecure {
		o.TLS = &tls.Config{InsecureSkipVerify: true}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return liveclient.Connect(ctx, c.url, o)
}

// tellStatus prints each change after the first connection, and the first attempt that fails before it: otherwise a person would see
// nothing until -timeout is over.
func (p *program) tellStatus() func(liveclient.Status) {
	wasOpen, hasFailed := false, false
	return func(s liveclient.Status) {
		switch {
		case s.State == liveclient.Open && wasOpen:
			fmt.Fprintln(p.err, "--- connected again")
		case s.State == liveclient.Open:
			wasOpen = true
		case s.State == liveclient.Waiting && !wasOpen && !hasFailed:
			hasFailed = true
			fmt.Fprintf(p.err, "--- no connection (%s); trying for %v\n", oneLine(fmt.Sprint(s.Err)), p.connection.timeout)
		case s.State == liveclient.Waiting && wasOpen:
			fmt.Fprintf(p.err, "--- no connection (%s); next attempt in %v\n", oneLine(fmt.Sprint(s.Err)), s.RetryIn.Round(time.Millisecond))
		}
	}
}

// tellError prints an error that ends nothing. The end of a subscription is told by runSub.
func (p *program) tellError(err error) {
	var of *liveclient.Error
	if errors.As(err, &of) && of.Op == "subscribe" && of.Code != liveclient.CodeUnavailable && of.Code != liveclient.CodeInternal {
		return
	}
	fmt.Fprintln(p.err, "--- error:", oneLine(err.Error()))
}
