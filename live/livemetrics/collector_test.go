package livemetrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

func newServer(t *testing.T) *live.Server {
	return livetest.NewServer(t, live.Options{Logger: livetest.Quiet})
}

// registryOf returns a registry with the collectors of servers. It checks what they collect.
func registryOf(t *testing.T, collectors ...*Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	for _, c := range collectors {
		if err := r.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// namesOf returns the names of all metrics. Each belongs to the collector alone.
func namesOf(t *testing.T) []string {
	t.Helper()
	families, err := registryOf(t, New(newServer(t), nil)).Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
	}
	slices.Sort(names)
	return names
}

// These names are in the dashboards and alerts of users. A name that is no longer here breaks them.
func TestNamesStayTheSame(t *testing.T) {
	want := strings.Fields(`
		live_auth_seconds live_auths_waiting live_deliveries_total live_delivery_seconds live_draining live_gaps_total
		live_handshakes_refused_total live_messages_malformed_total live_messages_received_total live_nodes
		live_operations_failed_total live_operations_refused_total live_panics_total live_presence_junk_total
		live_presence_peers live_present live_publications_dropped_total live_publications_failed_total
		live_publications_rate_limited_total live_publications_total live_publish_seconds live_queued_bytes
		live_queued_messages live_ready live_received_bytes_total live_request_seconds live_resumes_total
		live_sent_bytes_total live_sessions live_sessions_accepted_total live_sessions_closed_total
		live_snapshot_seconds live_snapshots_failed_total live_snapshots_total live_subscribes_total
		live_subscriptions live_subscriptions_catching_up live_topics live_write_frames`)
	if got := namesOf(t); !slices.Equal(got, want) {
		t.Errorf("got %s", strings.Join(got, " "))
	}
}

func TestLinterOfPrometheusFindsNothing(t *testing.T) {
	problems, err := testutil.GatherAndLint(registryOf(t, New(newServer(t), nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// A client that does a few things is counted by its server.
func TestMetricsFollowTheServer(t *testing.T) {
	opts := livetest.Permissive()
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		if r.Header.Get("Authorization") == "" {
			return nil, errors.New("no")
		}
		return "ann", nil
	}
	h := livetest.Hosting{}.Start(t, opts)
	registry := registryOf(t, New(h.Server, nil))
	livetest.Refusal(t, h.Endpoint, nil)
	c := livetest.Connect(t, h.Endpoint, livetest.Dialing{V1: true, Header: http.Header{"Authorization": {"Bearer x"}}}).Greeted().Attend()
	c.Must(`{"op":"subscribe","id":1,"topic":"t"}`)
	for range 3 {
		if err := h.Publish("t", []byte("1")); err != nil {
			t.Fatal(err)
		}
	}
	c.Hears("t", "1", "1", "1")
	check := func(what string) {
		t.Helper()
		if err := testutil.GatherAndCompare(registry, strings.NewReader(what), strings.Fields(what)[2]); err != nil {
			t.Error(err)
		}
	}
	check("# HELP live_sessions Open sessions.\n# TYPE live_sessions gauge\nlive_sessions 1\n")
	check("# HELP live_ready 1 if the server takes new clients: it is not shutting down, and its broker is ready.\n# TYPE live_ready gauge\nlive_ready 1\n")
	check("# HELP live_deliveries_total Publications that were queued for a session when they came, counted for each session.\n# TYPE live_deliveries_total counter\nlive_deliveries_total 3\n")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		switch m := f.GetMetric()[0]; f.GetName() {
		case "live_auth_seconds":
			if n := m.GetHistogram().GetSampleCount(); n != 2 {
				t.Errorf("%d calls of OnAuth", n)
			}
		case "live_handshakes_refused_total":
			for _, m := range f.GetMetric() {
				if got := m.GetCounter().GetValue(); (got == 1) != (m.GetLabel()[0].GetValue() == "auth") {
					t.Errorf("%v", m)
				}
			}
		}
	}
	c.Drop()
	livetest.Eventually(t, "the end", func() bool { return h.Stats().Closed == 1 })
	if err := h.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("# HELP live_draining 1 if the server is shutting down.\n# TYPE live_draining gauge\nlive_draining 1\n")
	check("# HELP live_ready 1 if the server takes new clients: it is not shutting down, and its broker is ready.\n# TYPE live_ready gauge\nlive_ready 0\n")
}

// A broker that is not ready is no shutdown.
func TestReadyIsThatOfTheBroker(t *testing.T) {
	b := &unready{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{}), err: errors.New("gone")}
	c := New(livetest.NewServer(t, live.Options{Broker: b, Logger: livetest.Quiet}), nil)
	if ready, draining := c.state(); ready != 0 || draining != 0 {
		t.Errorf("ready %v, draining %v", ready, draining)
	}
	b.err = nil
	if ready, draining := c.state(); ready != 1 || draining != 0 {
		t.Errorf("ready %v, draining %v", ready, draining)
	}
}

type unready struct {
	*live.MemoryBroker
	err error
}

func (u *unready) Ready(context.Context) error { return u.err }

// Several servers of one process have a label each.
func TestServersOfOneProcessAreToldApart(t *testing.T) {
	chat, news := newServer(t), newServer(t)
	registry := registryOf(t, New(chat, prometheus.Labels{"server": "chat"}), New(news, prometheus.Labels{"server": "news"}))
	if err := chat.Publish("t", []byte("1")); err != nil {
		t.Fatal(err)
	}
	const name = "live_publications_total"
	want := "# HELP " + name + " Publications that this server has made.\n# TYPE " + name + " counter\n" + name + `{server="chat"} 1` + "\n" + name + `{server="news"} 0` + "\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), name); err != nil {
		t.Error(err)
	}
	if err := registry.Register(New(chat, nil)); err == nil {
		t.Error("a server without a label fits beside those with one")
	}
	wrapped := prometheus.NewPedanticRegistry()
	for _, s := range []*live.Server{chat, news} {
		if err := prometheus.WrapRegistererWith(prometheus.Labels{"server": fmt.Sprintf("%p", s)}, wrapped).Register(New(s, nil)); err != nil {
			t.Error(err)
		}
	}
}

// sums are figures that others add up to.
var sums = map[string]bool{
	"Refused": true, "Closed": true, "Dropped": true, // of the counts by reason and by rule
	"QueueFull": true, "UserBytes": true, "Replaced": true, "PingTimeouts": true, "WriteFailed": true, // also in ClosedFor
	"NotReady": true, // live_ready asks
}

// Each figure of Stats changes some metric. So a new figure of Stats is not forgotten here.
func TestEveryFigureIsHandedOver(t *testing.T) {
	c := New(newServer(t), nil)
	text := func(st live.Stats) string {
		metrics := make(chan prometheus.Metric, 1000)
		c.collect(st, metrics)
		close(metrics)
		var all strings.Builder
		for m := range metrics {
			d := new(dto.Metric)
			if err := m.Write(d); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&all, m.Desc(), d)
		}
		return all.String()
	}
	none := text(live.Stats{})
	seen := 0
	var walk func(path string, v reflect.Value, st *live.Stats)
	walk = func(path string, v reflect.Value, st *live.Stats) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				name := v.Type().Field(i).Name
				if path == "" && sums[name] {
					continue
				}
				walk(path+"."+name, v.Field(i), st)
			}
			return
		case reflect.Array:
			for i := range v.Len() {
				walk(fmt.Sprint(path, ".", i), v.Index(i), st)
			}
			return
		case reflect.Uint64:
			v.SetUint(7)
		default:
			v.SetInt(7)
		}
		seen++
		if text(*st) == none {
			t.Errorf("Stats%s changes no metric", path)
		}
		v.SetZero()
	}
	var st live.Stats
	walk("", reflect.ValueOf(&st).Elem(), &st)
	if seen < 100 {
		t.Errorf("only %d figures", seen)
	}
}

// The buckets of a histogram count all that is at most as large.
func TestHistogramsAddUp(t *testing.T) {
	var st live.Stats
	for i := range st.AuthTime.Counts {
		st.AuthTime.Counts[i] = 1
	}
	d := new(dto.Metric)
	if err := histogramOf(prometheus.NewDesc("x", "x", nil, nil), st.AuthTime).Write(d); err != nil {
		t.Fatal(err)
	}
	h := d.GetHistogram()
	if n := h.GetSampleCount(); n != uint64(len(st.AuthTime.Counts)) || len(h.GetBucket()) != len(live.DurationBounds()) {
		t.Fatalf("%v", h)
	}
	for i, b := range h.GetBucket() {
		if b.GetCumulativeCount() != uint64(i+1) || b.GetUpperBound() != live.DurationBounds()[i].Seconds() {
			t.Errorf("%v", b)
		}
	}
}

// A scrape while clients come and go, and while the server ends, has no race and no error.
func TestScrapesDuringTraffic(t *testing.T) {
	h := livetest.Hosting{}.Start(t, livetest.Permissive())
	at := livetest.Serve(t, promhttp.HandlerFor(registryOf(t, New(h.Server, nil)), promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	stop := livetest.Hammer(h.Server, "t")
	livetest.Each(4, func(i int) {
		for range 10 {
			if i%2 == 0 {
				c := livetest.DialV1(t, h.Endpoint)
				c.Must(livetest.SubscribeTo(1, "t"))
				c.Drop()
				continue
			}
			resp, err := http.Get(at.HTTP())
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Error(resp.Status)
			}
		}
	})
	stop()
}

// metricNames finds the names of metrics in a text, without what Prometheus adds for histograms.
func metricNames(text string) map[string]bool {
	names := make(map[string]bool)
	for _, name := range regexp.MustCompile(`\blive_[a-z_]+\b`).FindAllString(text, -1) {
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			name = strings.TrimSuffix(name, suffix)
		}
		names[name] = true
	}
	return names
}

// sameNames checks that a text names all metrics, and no other.
func sameNames(t *testing.T, what, text string) {
	t.Helper()
	got, want := slices.Sorted(maps.Keys(metricNames(text))), namesOf(t)
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("%s does not have %s", what, name)
		}
	}
	for _, name := range got {
		if !slices.Contains(want, name) {
			t.Errorf("%s has %s, which the collector does not have", what, name)
		}
	}
}

// expressions returns all that the dashboard asks Prometheus.
func expressions(t *testing.T) []string {
	t.Helper()
	var d struct {
		UID    string
		Panels []struct {
			Title, Type, Description string
			ID                       int
			GridPos                  struct{ H, W, X, Y int }
			Targets                  []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal([]byte(Dashboard()), &d); err != nil {
		t.Fatal(err)
	}
	var all []string
	ids, places := make(map[int]bool), make(map[string]bool)
	for _, p := range d.Panels {
		place := fmt.Sprint(p.GridPos.X, p.GridPos.Y)
		if p.Title == "" || ids[p.ID] || places[place] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("the panel %q: %+v", p.Title, p)
		}
		ids[p.ID], places[place] = true, true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Description == "") {
			t.Errorf("the panel %q shows nothing, or does not say what", p.Title)
		}
		for _, target := range p.Targets {
			if !strings.Contains(target.Expr, `job=~"$job",instance=~"$instance"`) || target.LegendFormat == "" {
				t.Errorf("the panel %q: %s", p.Title, target.Expr)
			}
			all = append(all, target.Expr)
		}
	}
	return all
}

func TestDashboardShowsEveryMetric(t *testing.T) {
	sameNames(t, "the dashboard", strings.Join(expressions(t), "\n"))
}

func TestAlertsAskForMetricsThatExist(t *testing.T) {
	names := namesOf(t)
	asked := metricNames(Alerts())
	for name := range asked {
		if !slices.Contains(names, name) {
			t.Errorf("%s", name)
		}
	}
	if len(asked) < 10 {
		t.Errorf("%d metrics", len(asked))
	}
}

// docs/operations.md says what each metric means, and what to do about each alert.
func TestPageOfOperationsIsComplete(t *testing.T) {
	raw, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	sameNames(t, "the page", page)
	alert := regexp.MustCompile(`\bLive[A-Z]\w+`)
	var inRules []string
	for _, rule := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(Alerts(), -1) {
		inRules = append(inRules, rule[1])
		if !strings.Contains(page, "| `"+rule[1]+"` |") {
			t.Errorf("the page does not say what to do about %s", rule[1])
		}
	}
	for _, name := range alert.FindAllString(page, -1) {
		if !slices.Contains(inRules, name) {
			t.Errorf("the page has the alert %s, which there is not", name)
		}
	}
	// Each value of a label is on the page too.
	st := live.Stats{}
	for _, m := range labelledCounters {
		for _, v := range m.values(&st) {
			if !strings.Contains(page, "`"+v.label+"`") {
				t.Errorf("the page does not say what %s{%s=%q} means", m.name, m.label, v.label)
			}
		}
	}
}
