package natsbroker

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

const publishingPage = "../../docs/publishing.md"

// Each Go snippet of the part of docs/publishing.md on NATS is repeated here, where it is compiled and run.
func TestNATSSnippetsOfThePublishingPageCompile(t *testing.T) {
	part := livetest.Section(t, livetest.ReadFile(t, publishingPage), "Over NATS")
	livetest.InFiles(t, livetest.Snippets(t, part, 1, "go"), "publishing_page_test.go")
}

// publishOrder is a program that has only NATS's own client.
func publishOrder(ctx context.Context, url string) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Drain()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	m := nats.NewMsg("live.s.orders.:eu") // the topic orders:eu, which a stream keeps
	m.Data = []byte(`{"id":17}`)
	m.Header.Set("Nats-Msg-Id", "order-17-shipped") // sent again within two minutes, it is stored once
	if _, err := js.PublishMsg(ctx, m); err != nil {
		return err
	}
	return nc.Publish("live.d.prices", []byte("17.5")) // the topic prices, which nothing keeps
}

// A program without the library publishes over NATS: what is kept is stored once, and all subscribers
// get both.
func TestProgramsPublishOverNATSAsThePageSays(t *testing.T) {
	t.Parallel()
	url := startServer(t).ClientURL()
	in := runInstance(t, 0, open(t, Options{
		Servers: []string{url},
		Streams: []StreamConfig{{Name: "ORDERS", Subjects: []string{"orders.>"}}},
	}), nil)
	orders, prices := view(t, "orders:eu", in), view(t, "prices", in)
	for range 2 {
		if err := publishOrder(t.Context(), url); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "both publications", func() bool { return len(orders.data()) >= 1 && len(prices.data()) >= 2 })
	kept, err := in.server.History(t.Context(), "orders:eu", 10)
	if err != nil || len(kept) != 1 || string(kept[0].Data) != `{"id":17}` || kept[0].Position.Offset == 0 {
		t.Errorf("kept: %+v, %v", kept, err)
	}
	if got := orders.data(); !slices.Equal(got, []string{`{"id":17}`}) {
		t.Errorf("heard %q", got)
	}
	if got := prices.data(); !slices.Equal(got, []string{"17.5", "17.5"}) {
		t.Errorf("heard %q", got)
	}
}

// The page's table of topics and subjects is that of the code. It has one subject of each kind.
func TestSubjectsOfThePublishingPage(t *testing.T) {
	t.Parallel()
	rows := regexp.MustCompile("(?m)^\\| `([^`]+)`(?:, key `([^`]+)`)? \\| `live\\.([dshk])\\.([^`]+)` \\|$").FindAllStringSubmatch(livetest.ReadFile(t, publishingPage), -1)
	if len(rows) < 5 {
		t.Fatalf("%d rows found", len(rows))
	}
	for _, row := range rows {
		want, err := encode(row[1])
		if err != nil {
			t.Fatal(err)
		}
		if row[2] != "" {
			want += "." + encodeKey(row[2])
		}
		if row[4] != want {
			t.Errorf("%s, key %q: the page has %s, want %s", row[1], row[2], row[4], want)
		}
	}
}

// A value of a keyed topic is published under its key.
func TestProgramsPublishKeysOverNATSAsThePageSays(t *testing.T) {
	t.Parallel()
	url := startServer(t).ClientURL()
	b := open(t, Options{Servers: []string{url}, Streams: []StreamConfig{{Name: "JOBS", Subjects: []string{"jobs.>"}, Keyed: true}}})
	s := serve(t, b, func(string) live.TopicOptions { return live.TopicOptions{Keyed: true} })
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"1", "2"} {
		if _, err := js.Publish(t.Context(), "live.k.jobs.eu.=kbuild=2E17", []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	livetest.Eventually(t, "the newest value", func() bool { return valuesOf(t, s, "jobs.eu")["build.17"] == "2" })
}

// While NATS is away a request over HTTP is told so, and says what was stored. The same request again
// stores each publication once.
func TestPublishingOverHTTPThroughAnOutageOfNATS(t *testing.T) {
	t.Parallel()
	away := newLink(t, startServer(t).Addr().String())
	b := open(t, Options{Servers: []string{"nats://" + away.addr()}, PublishTimeout: 200 * time.Millisecond, Streams: []StreamConfig{chat}})
	server := serve(t, b, nil)
	web := httptest.NewServer(server.PublishHandler(live.PublishHandlerOptions{
		Auth: func(context.Context, *http.Request) (any, error) { return nil, nil },
	}))
	defer web.Close()
	const body = `[{"topic":"chat.1","data":1},{"topic":"chat.1","data":2},{"topic":"chat.1","data":3}]`
	type result struct {
		At    string
		Error *struct{ Code string }
	}
	post := func(body string) (status int, results []result) {
		t.Helper()
		r, err := http.NewRequest(http.MethodPost, web.URL, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Idempotency-Key", "request-1")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct{ Results []result }
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		if (resp.Header.Get("Retry-After") != "") != (resp.StatusCode == http.StatusServiceUnavailable) {
			t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
		}
		return resp.StatusCode, answer.Results
	}
	first, _, _ := strings.Cut(body, `,{"topic":"chat.1","data":2}`)
	livetest.Eventually(t, "the first publication", func() bool { // PublishTimeout is short for a busy machine
		status, _ := post(first + "]")
		return status == http.StatusAccepted
	})
	away.set(linkBlackhole)
	status, results := post(body)
	if status != http.StatusServiceUnavailable || len(results) != 3 || results[0].Error == nil || results[0].Error.Code != "unavailable" ||
		results[2].Error == nil || results[2].Error.Code != "not_tried" {
		t.Errorf("while NATS is away: %d, %+v", status, results)
	}
	away.set(linkOK)
	waitFor(t, "the rest to be stored", func() bool {
		status, results = post(body)
		return status == http.StatusAccepted
	})
	kept, err := server.History(t.Context(), "chat.1", 10)
	if err != nil || len(kept) != 3 {
		t.Fatalf("kept: %+v, %v", kept, err)
	}
	for i, m := range kept {
		if m.Position.String() != results[i].At {
			t.Errorf("number %d is at %v, and the answer says %s", i, m.Position, results[i].At)
		}
	}
}
