package live_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
	inmemory "github.com/livetopic/livetopic/live/livetest"
)

// anyone is an Auth that lets in everybody.
func anyone(context.Context, *http.Request) (any, error) { return "ci", nil }

// publishing serves a PublishHandler, and returns its URL.
func publishing(t *testing.T, server *live.Server, o live.PublishHandlerOptions) string {
	t.Helper()
	return livetest.Serve(t, server.PublishHandler(o)).HTTP()
}

// said is the answer of a PublishHandler.
type said struct {
	status int
	header http.Header

	At      string
	Error   *saidError
	Results []struct {
		At    string
		Error *saidError
	}
}

type saidError struct {
	Code, Member, Message string
	Index                 *int
}

// post sends a body as JSON, unless the headers say otherwise.
func post(t *testing.T, url string, body io.Reader, headers ...string) (answer said) {
	t.Helper()
	return request(t, http.DefaultClient, http.MethodPost, url, body, headers...)
}

func request(t *testing.T, client *http.Client, method, url string, body io.Reader, headers ...string) (answer said) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil {
		t.Fatalf("%s: %q: %v", resp.Status, text, err)
	}
	answer.status, answer.header = resp.StatusCode, resp.Header
	if (answer.Error == nil) != (answer.status == http.StatusAccepted) {
		t.Errorf("%s: %s", resp.Status, text)
	}
	return answer
}

// refuses checks that an answer is an error.
func (a said) refuses(t *testing.T, what string, status int, code string) {
	t.Helper()
	if a.Error == nil || a.status != status || a.Error.Code != code || a.Error.Message == "" {
		t.Errorf("%s: %d, %+v; want %d, %s", what, a.status, a.Error, status, code)
	}
}

// stored returns the data of a topic's history.
func stored(t *testing.T, server *live.Server, topic string) (all []string) {
	t.Helper()
	messages, err := server.History(t.Context(), topic, 2000)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		all = append(all, string(m.Data))
	}
	return all
}

func TestPublishingOverHTTPReachesSubscribers(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, livetest.Open(keepingAll(100)))
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone})
	c := livetest.DialV1(t, livetest.Serve(t, server.Handler()))
	c.Must(livetest.SubscribeTo(1, "orders"))
	c.Must(livetest.SubscribeTo(2, "plain"))

	one := post(t, url, strings.NewReader(`{"topic":"orders","data":{"id": 17}}`))
	c.Hears("orders", `{"id": 17}`)
	last, err := server.Position(t.Context(), "orders")
	if err != nil || one.status != http.StatusAccepted || one.At != last.String() || one.Results != nil {
		t.Errorf("one: %+v, %v; the position is %v", one, err, last)
	}
	if plain := post(t, url, strings.NewReader(`{"topic":"plain","data":"x"}`)); plain.status != http.StatusAccepted || plain.At != "" {
		t.Errorf("without history: %+v", plain)
	}
	c.Hears("plain", `"x"`)

	many := post(t, url, strings.NewReader(`[{"topic":"orders","data":1},{"topic":"plain","data":2},{"topic":"orders","data":3}]`))
	last, err = server.Position(t.Context(), "orders")
	if err != nil || many.status != http.StatusAccepted || len(many.Results) != 3 || many.Results[2].At != last.String() || many.Results[1].At != "" || many.At != "" {
		t.Errorf("many: %+v, %v; the position is %v", many, err, last)
	}
	if none := post(t, url, strings.NewReader(`[]`)); none.status != http.StatusAccepted || none.Results == nil || len(none.Results) != 0 {
		t.Errorf("none: %+v", none)
	}
	if got := stored(t, server, "orders"); !slices.Equal(got, []string{`{"id": 17}`, "1", "3"}) {
		t.Errorf("stored: %q", got)
	}
	if published := server.Stats().Published; published != 5 {
		t.Errorf("%d are counted", published)
	}
}

func TestKeysOverHTTP(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Topics: func(topic string) live.TopicOptions {
		return live.TopicOptions{Keyed: topic == "jobs", History: 2}
	}})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone})
	do := func(body string) said { return post(t, url, strings.NewReader(body)) }
	for _, body := range []string{
		`{"topic":"jobs","key":"a","data":1}`, `{"topic":"jobs","key":"b","data":1}`, `{"topic":"jobs","key":"b","data":2}`,
		`{"topic":"jobs","key":"a","remove":true}`, `{"topic":"jobs","key":"nobody","remove":true}`,
	} {
		if got := do(body); got.status != http.StatusAccepted {
			t.Errorf("%s: %+v", body, got.Error)
		}
	}
	if got := stored(t, server, "jobs"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("the values are %q", got)
	}
	do(`{"topic":"jobs","key":"c","data":1}`)
	do(`{"topic":"jobs","key":"d","data":1}`).refuses(t, "one key more", 409, "too_many_keys")
	for body, member := range map[string]string{
		`{"topic":"jobs","data":1}`:                                                   "key",
		`{"topic":"jobs","remove":true}`:                                              "key",
		`{"topic":"plain","key":"a","remove":true}`:                                   "remove",
		`{"topic":"jobs","data":1,"key":"` + strings.Repeat("x", 129) + `"}`:          "key",
		`{"topic":"jobs","key":"a","data":1,"id":"` + strings.Repeat("x", 129) + `"}`: "id",
		`{"topic":"` + strings.Repeat("x", 256) + `","data":1}`:                       "topic",
		`{"topic":"","data":1}`:                                                       "topic",
	} {
		if got := do(body); got.status != 400 || got.Error == nil || got.Error.Member != member {
			t.Errorf("%.60s: %d, %+v", body, got.status, got.Error)
		}
	}
}

// A program that does not know whether its request was carried out sends it again.
func TestRequestWithIDsCanBeRepeated(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, keepingAll(100))
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone})
	for _, c := range []struct {
		body, key string
		made      int
	}{
		{`{"topic":"t","data":1,"id":"a"}`, "", 1},
		{`{"topic":"t","data":1,"id":"a"}`, "k", 0}, // an ID of its own counts
		{`{"topic":"t","data":1}`, "k", 1},
		{`{"topic":"t","data":1}`, "other", 1},
		{`[{"topic":"t","data":1},{"topic":"t","data":2},{"topic":"t","data":3,"id":"a"}]`, "k", 2},
		{`{"topic":"t","data":1}`, strings.Repeat("k", 124), 1},
	} {
		before := len(stored(t, server, "t"))
		first := post(t, url, strings.NewReader(c.body), "Idempotency-Key", c.key)
		again := post(t, url, strings.NewReader(c.body), "Idempotency-Key", c.key)
		if got := len(stored(t, server, "t")) - before; got != c.made || first.status != 202 || again.status != 202 {
			t.Errorf("%s, key %q: %d are made, want %d; %d, %d", c.body, c.key, got, c.made, first.status, again.status)
		}
		if fmt.Sprint(first.At, first.Results) != fmt.Sprint(again.At, again.Results) {
			t.Errorf("%s, key %q: %+v, then %+v", c.body, c.key, first, again)
		}
	}
	long := post(t, url, strings.NewReader(`{"topic":"t","data":1}`), "Idempotency-Key", strings.Repeat("k", 125))
	long.refuses(t, "a long key", 400, "bad_request")
	if long.Error.Member != "Idempotency-Key" {
		t.Errorf("%+v", long.Error)
	}
}

// What is wrong with one publication is found before the first is made.
func TestInvalidRequestPublishesNothing(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, keepingAll(100))
	asked := 0
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone, MaxBytes: 1000,
		OnPublish: func(_ context.Context, _ any, p *live.HTTPPublication) error {
			asked++
			if p.Topic == "secret" {
				return errors.New("not yours")
			}
			return nil
		}})
	for _, c := range []struct {
		second string
		status int
		code   string
		index  int
		asked  int
	}{
		{`{"topic":"t"}`, 400, "bad_request", 1, 0},
		{`{"topic":"","data":1}`, 400, "invalid_topic", 1, 0},
		{`{"topic":"secret","data":1}`, 403, "forbidden", 1, 2},
		{`{"topic":"t","data":1`, 400, "bad_request", -1, 0},
		{`{"topic":"t","data":"` + strings.Repeat("x", 1000) + `"}`, 413, "too_big", -1, 0},
	} {
		asked = 0
		got := post(t, url, strings.NewReader(`[{"topic":"t","data":1},`+c.second+`]`))
		got.refuses(t, c.second, c.status, c.code)
		if index := got.Error.Index; (index == nil) != (c.index < 0) || index != nil && *index != c.index {
			t.Errorf("%s: the index is %v", c.second, index)
		}
		if got.Results != nil || asked != c.asked {
			t.Errorf("%s: %+v; OnPublish was called %d times", c.second, got.Results, asked)
		}
	}
	if got := stored(t, server, "t"); got != nil {
		t.Errorf("published: %q", got)
	}
}

func TestRefusedRequestsOverHTTP(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone, MaxBytes: 1000})
	body := func() io.Reader { return strings.NewReader(`{"topic":"t","data":1}`) }
	check := func(what string, got said, status int, header, value string) {
		t.Helper()
		if got.status != status || header != "" && got.header.Get(header) != value {
			t.Errorf("%s: %d, %s %q; want %d, %q", what, got.status, header, got.header.Get(header), status, value)
		}
		if got.header.Get("Cache-Control") != "no-store" || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v", what, got.header)
		}
	}
	check("GET", request(t, http.DefaultClient, "GET", url, nil), 405, "Allow", "POST")
	check("OPTIONS", request(t, http.DefaultClient, "OPTIONS", url, nil, "Origin", "https://evil.example"), 405, "Access-Control-Allow-Origin", "")
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application/jsonp"} {
		check(kind, post(t, url, body(), "Content-Type", kind), 415, "Accept-Post", "application/json")
	}
	check("gzip", post(t, url, body(), "Content-Encoding", "gzip"), 415, "", "")
	for _, kind := range []string{"application/json; charset=utf-8", "Application/JSON;charset=UTF-8"} {
		check(kind, post(t, url, body(), "Content-Type", kind), 202, "", "")
	}
	check("long", post(t, url, bytes.NewReader(make([]byte, 1001))), 413, "", "")
	check("long, of unknown length", post(t, url, io.MultiReader(bytes.NewReader(make([]byte, 1001)))), 413, "", "")
	full := `{"topic":"t","data":"` + strings.Repeat("x", 1000-23) + `"}`
	check("as long as it may be", post(t, url, strings.NewReader(full)), 202, "", "")
}

// A program that asks first does not send a body in vain.
func TestLongBodyIsRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone, MaxBytes: 1000})
	for length, want := range map[int]bool{1000: true, 1001: false} {
		continued := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }})
		r, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(make([]byte, length)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Expect", "100-continue")
		transport := &http.Transport{ExpectContinueTimeout: livetest.Patience}
		defer transport.CloseIdleConnections()
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if continued != want {
			t.Errorf("%d bytes: told to go on: %v; %s", length, continued, resp.Status)
		}
	}
}

func TestNobodyPublishesOverHTTPWithoutAuth(t *testing.T) {
	t.Parallel()
	logger, logged := logging()
	server := livetest.NewServer(t, live.Options{Logger: logger})
	url := publishing(t, server, live.PublishHandlerOptions{})
	for range 2 {
		got := post(t, url, strings.NewReader(`{"topic":"t","data":1}`))
		got.refuses(t, "without Auth", 403, "forbidden")
		if !strings.Contains(got.Error.Message, "Auth is nil") {
			t.Errorf("told %q", got.Error.Message)
		}
	}
	if n := logged.with("PublishHandlerOptions.Auth is nil"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	if n := server.Stats().Published; n != 0 {
		t.Errorf("%d are published", n)
	}
}

func TestAuthOfPublishHandlerDecides(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: func(_ context.Context, r *http.Request) (any, error) {
		switch live.Token(r) {
		case "good":
			return "ci", nil
		case "spent":
			return nil, live.Refuse(http.StatusTooManyRequests, "your quota is used up")
		case "worse":
			return nil, live.Refuse(http.StatusServiceUnavailable, "the database is away")
		case "panic":
			panic("made up")
		}
		return nil, errors.New("a secret")
	}})
	for token, want := range map[string]int{"": 401, "bad": 401, "spent": 429, "worse": 503, "panic": 500, "good": 202} {
		got := post(t, url, strings.NewReader(`{"topic":"t","data":1}`), "Authorization", "Bearer "+token)
		if got.status != want {
			t.Errorf("%q: %d, want %d", token, got.status, want)
		}
		if want == 401 && (got.header.Get("WWW-Authenticate") != "Bearer" || strings.Contains(got.Error.Message, "secret")) {
			t.Errorf("%q: %v, %q", token, got.header, got.Error.Message)
		}
		if wait := got.header.Get("Retry-After"); (wait != "") != (want == 429 || want == 503) {
			t.Errorf("%q: Retry-After %q", token, wait)
		}
	}
	if st := server.Stats(); st.Published != 1 || st.Panics != 1 || st.Refused != 0 {
		t.Errorf("%+v", st)
	}
}

func TestSlowAuthOfPublishHandlerIsNoRefusal(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet, AuthTimeout: time.Millisecond})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: func(ctx context.Context, _ *http.Request) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	post(t, url, strings.NewReader(`{"topic":"t","data":1}`)).refuses(t, "slow Auth", 503, "unavailable")
}

func TestOnPublishOfPublishHandlerDecides(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet, Topics: func(topic string) live.TopicOptions {
		return live.TopicOptions{History: 10, Keyed: topic == "keyed"}
	}})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone,
		OnPublish: func(_ context.Context, caller any, p *live.HTTPPublication) error {
			switch p.Topic {
			case "stamp":
				p.Topic, p.Data, p.ID = "stamped", fmt.Appendf(nil, `{"by":%q,"said":%s}`, caller, p.Data), fmt.Sprint(caller, "/", p.ID)
			case "invalid":
				p.Data = []byte("{")
			case "keyless":
				p.Topic = "keyed"
			case "panic":
				panic("made up")
			case "away":
				return fmt.Errorf("asking: %w", live.ErrUnavailable)
			case "own":
				return &live.ClientError{Code: "closed", Message: "come back tomorrow"}
			case "wrong":
				return &live.ClientError{Code: "bad_request", Message: "data has no name"}
			case "often":
				return &live.ClientError{Code: "rate_limited", Message: "slower"}
			case "later":
				return &live.ClientError{Code: "unavailable", Message: "later"}
			case "gone":
				return live.Refuse(http.StatusGone, "the topic has ended")
			default:
				return errors.New("a secret")
			}
			return nil
		}})
	for topic, want := range map[string]struct {
		status int
		code   string
	}{
		"else": {403, "forbidden"}, "invalid": {500, "internal"}, "keyless": {500, "internal"}, "panic": {500, "internal"},
		"away": {503, "unavailable"}, "own": {403, "closed"}, "wrong": {400, "bad_request"}, "often": {429, "rate_limited"},
		"later": {503, "unavailable"}, "gone": {410, "forbidden"},
	} {
		got := post(t, url, strings.NewReader(`{"topic":"`+topic+`","data":1}`))
		got.refuses(t, topic, want.status, want.code)
		if strings.Contains(got.Error.Message, "secret") || topic == "own" && got.Error.Message != "come back tomorrow" {
			t.Errorf("%s: told %q", topic, got.Error.Message)
		}
	}
	for range 2 {
		if got := post(t, url, strings.NewReader(`{"topic":"stamp","data":[1],"id":"a"}`)); got.status != 202 {
			t.Errorf("%+v", got.Error)
		}
	}
	if got := stored(t, server, "stamped"); !slices.Equal(got, []string{`{"by":"ci","said":[1]}`}) {
		t.Errorf("stored: %q", got)
	}
	if _, err := server.PublishContext(t.Context(), "stamped", []byte("2"), live.ID("ci/a")); err != nil || len(stored(t, server, "stamped")) != 1 {
		t.Errorf("the ID is not the one that OnPublish made: %v", err)
	}
}

// A page of another site may not publish with the cookies of the person who reads it.
func TestPagesOfOtherSitesDoNotPublish(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet, Origins: []string{"https://app.example.com"}})
	called := false
	url := publishing(t, server, live.PublishHandlerOptions{Auth: func(context.Context, *http.Request) (any, error) {
		called = true
		return nil, nil
	}})
	for _, c := range []struct {
		origin, site string
		status       int
	}{
		{"", "", 202},
		{"", "same-origin", 202},
		{"", "none", 202},
		{url, "same-origin", 202},
		{"https://app.example.com", "cross-site", 202}, // it may connect, so it may publish
		{"https://evil.example", "", 403},
		{"https://evil.example", "cross-site", 403},
		{"null", "cross-site", 403},
		{"", "cross-site", 403},
		{"", "same-site", 403},
	} {
		headers := []string{"Cookie", "session=1"}
		if c.origin != "" {
			headers = append(headers, "Origin", c.origin)
		}
		if c.site != "" {
			headers = append(headers, "Sec-Fetch-Site", c.site)
		}
		called = false
		if got := post(t, url, strings.NewReader(`{"topic":"t","data":1}`), headers...); got.status != c.status || called != (c.status == 202) {
			t.Errorf("Origin %q, Sec-Fetch-Site %q: %d, want %d; Auth was called: %v", c.origin, c.site, got.status, c.status, called)
		}
	}
}

// failingAfter is a broker that is away after some publications.
type failingAfter struct {
	*live.MemoryBroker
	left atomic.Int64
	err  error
}

func (b *failingAfter) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if b.left.Add(-1) < 0 {
		return live.Position{}, b.err
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

// If the broker goes away in the middle, the answer says what was stored, and nothing comes after the
// gap. The same request again stores the rest.
func TestAnswerSaysWhatWasStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{fmt.Errorf("made up: %w", live.ErrUnavailable), 503, "unavailable"},
		{live.ErrServerClosed, 503, "unavailable"},
		{fmt.Errorf("made up: %w", live.ErrTooLarge), 413, "too_big"},
		{fmt.Errorf("made up: %w", live.ErrInvalidTopic), 400, "invalid_topic"},
		{errors.New("a secret"), 500, "internal"},
	} {
		b := &failingAfter{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{}), err: c.err}
		b.left.Store(2)
		opts := keepingAll(100)
		opts.Broker, opts.Logger = b, livetest.Quiet
		server := livetest.NewServer(t, opts)
		url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone})
		const body = `[{"topic":"t","data":1},{"topic":"t","data":2},{"topic":"t","data":3},{"topic":"t","data":4}]`
		got := post(t, url, strings.NewReader(body), "Idempotency-Key", "k")
		got.refuses(t, c.err.Error(), c.status, c.code)
		if strings.Contains(got.Error.Message, "secret") || (got.header.Get("Retry-After") != "") != (c.status == 503) {
			t.Errorf("%v: told %q, %v", c.err, got.Error.Message, got.header)
		}
		r := got.Results
		if len(r) != 4 || r[0].Error != nil || r[1].Error != nil || r[1].At == "" || r[2].Error == nil || r[2].Error.Code != c.code ||
			r[3].Error == nil || r[3].Error.Code != "not_tried" || got.Error.Index == nil || *got.Error.Index != 2 {
			t.Fatalf("%v: %+v", c.err, got)
		}
		if all := stored(t, server, "t"); !slices.Equal(all, []string{"1", "2"}) {
			t.Errorf("%v: stored %q", c.err, all)
		}
		b.left.Store(1000)
		if again := post(t, url, strings.NewReader(body), "Idempotency-Key", "k"); again.status != 202 || again.Results[1].At != r[1].At {
			t.Errorf("%v: again %+v", c.err, again)
		}
		if all := stored(t, server, "t"); !slices.Equal(all, []string{"1", "2", "3", "4"}) {
			t.Errorf("%v: stored after all %q", c.err, all)
		}
	}
}

func TestPublishingOverHTTPAfterShutdown(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone})
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := post(t, url, strings.NewReader(`{"topic":"t","data":1}`))
	got.refuses(t, "after Shutdown", 503, "unavailable")
	if got.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// held is a broker that holds publications until it is let go.
type held struct {
	*live.MemoryBroker
	begun chan struct{}
	let   chan struct{}
}

func (b *held) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	b.begun <- struct{}{}
	select {
	case <-b.let:
	case <-ctx.Done():
		return live.Position{}, ctx.Err()
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

func TestRequestsAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	b := &held{live.NewMemoryBroker(live.MemoryOptions{}), make(chan struct{}), make(chan struct{})}
	server := livetest.NewServer(t, live.Options{Broker: b, Logger: livetest.Quiet})
	for _, c := range []struct{ most, places int }{{3, 3}, {0, 64}, {-1, 100}} {
		url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone, MaxAtOnce: c.most})
		statuses := make(chan int, c.places)
		for range c.places {
			go func() { // ends with the request
				statuses <- post(t, url, strings.NewReader(`{"topic":"t","data":1}`)).status
			}()
		}
		for range c.places {
			livetest.Receive(t, b.begun)
		}
		if c.most >= 0 {
			got := post(t, url, strings.NewReader(`{"topic":"t","data":1}`))
			got.refuses(t, "one more", 429, "rate_limited")
			if got.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
		for range c.places {
			b.let <- struct{}{}
			if status := livetest.Receive(t, statuses); status != 202 {
				t.Errorf("MaxAtOnce %d: %d", c.most, status)
			}
		}
		go func() { // ends with the next publication
			<-b.begun
			b.let <- struct{}{}
		}()
		if got := post(t, url, strings.NewReader(`{"topic":"t","data":1}`)); got.status != 202 {
			t.Errorf("afterwards: %d", got.status)
		}
	}
}

// patient returns a client of a server without a timeout.
func patient(web *inmemory.Server) *http.Client {
	c := *web.Client()
	c.Timeout = 0
	return &c
}

// A request's publications take half a minute together at most, and the answer says which were made.
func TestPublishingOverHTTPDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &held{live.NewMemoryBroker(live.MemoryOptions{}), make(chan struct{}, 10), make(chan struct{}, 1)}
		b.let <- struct{}{}
		server := live.New(live.Options{Broker: b, Logger: livetest.Quiet})
		defer server.Shutdown(context.Background())
		web := inmemory.Serve(t, server.PublishHandler(live.PublishHandlerOptions{Auth: anyone}))
		begun := time.Now()
		got := request(t, patient(web), "POST", web.URL, strings.NewReader(`[{"topic":"t","data":1},{"topic":"t","data":2}]`))
		got.refuses(t, "a broker that hangs", 503, "unavailable")
		if took := time.Since(begun); took != 30*time.Second || got.Results[0].Error != nil || got.Results[1].Error == nil {
			t.Errorf("after %v: %+v", took, got)
		}
	})
}

// A body that stops arriving does not hold its place for ever, and one that has arrived has no deadline.
func TestBodiesThatStopAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &held{live.NewMemoryBroker(live.MemoryOptions{}), make(chan struct{}, 10), make(chan struct{}, 1)}
		server := live.New(live.Options{Broker: b, Logger: livetest.Quiet})
		defer server.Shutdown(context.Background())
		web := inmemory.Serve(t, server.PublishHandler(live.PublishHandlerOptions{Auth: anyone, MaxAtOnce: 1}))
		stopped, rest := io.Pipe()
		begun := time.Now()
		go func() { // ends after a minute
			io.WriteString(rest, `{"topic":`)
			time.Sleep(time.Minute)
			rest.Close()
		}()
		got := request(t, patient(web), "POST", web.URL, stopped)
		got.refuses(t, "half a body", 408, "bad_request")
		if took := time.Since(begun); took != 30*time.Second {
			t.Errorf("after %v", took)
		}
		slow, write := io.Pipe()
		go func() { // ends when the body is written
			io.WriteString(write, `{"topic":`)
			time.Sleep(29 * time.Second)
			io.WriteString(write, `"t","data":1}`)
			write.Close()
			time.Sleep(29 * time.Second)
			b.let <- struct{}{}
		}()
		if got := request(t, patient(web), "POST", web.URL, slow); got.status != 202 {
			t.Errorf("a slow body: %d, %+v", got.status, got.Error)
		}
	})
}

// A program in any language publishes with a POST.
func ExampleServer_PublishHandler() {
	server := live.New(live.Options{})
	mux := http.NewServeMux()
	mux.Handle("POST /publish", server.PublishHandler(live.PublishHandlerOptions{
		Auth: func(_ context.Context, r *http.Request) (any, error) {
			if live.Token(r) != "the token of the build server" { // in a real program compared by crypto/subtle
				return nil, errors.New("unknown token")
			}
			return "build server", nil
		},
	}))
	log.Fatal(http.ListenAndServe(":8080", mux))
}

// A request that waits for the broker holds its body, and one copy of its data.
func TestMemoryOfRequestsIsBounded(t *testing.T) {
	const size, requests = 1 << 20, 8
	b := &held{live.NewMemoryBroker(live.MemoryOptions{}), make(chan struct{}), make(chan struct{})}
	server := livetest.NewServer(t, live.Options{Broker: b, Logger: livetest.Quiet, Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 1} }})
	url := publishing(t, server, live.PublishHandlerOptions{Auth: anyone, MaxBytes: size})
	body := []byte(`{"topic":"t","data":"` + strings.Repeat("x", size-23) + `"}`)
	before := liveHeap()
	statuses := make(chan int, requests)
	for i := range requests {
		go func() { // ends with the request
			var sent io.Reader = bytes.NewReader(body)
			if i%2 == 0 {
				sent = io.MultiReader(sent) // of a length that is not announced
			}
			statuses <- post(t, url, sent).status
		}()
	}
	for range requests {
		livetest.Receive(t, b.begun)
	}
	grown := (liveHeap() - before) / requests
	for range requests {
		b.let <- struct{}{}
		if status := livetest.Receive(t, statuses); status != 202 {
			t.Errorf("the status is %d", status)
		}
	}
	t.Logf("a request of %d bytes takes %d", size, grown)
	if grown > 5*size/2 || grown < size {
		t.Errorf("a request of %d bytes takes %d", size, grown)
	}
}
