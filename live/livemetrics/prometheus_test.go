//go:build linux

package livemetrics

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// These tests run Debian's prometheus and promtool. make deps installs them.

// promtool runs promtool, and returns what it says.
func promtool(t *testing.T, stdin string, args ...string) (said string, err error) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(t *testing.T, folder, name, text string) string {
	t.Helper()
	file := filepath.Join(folder, name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// scraped returns what the collector of a server with a client tells Prometheus.
func scraped(t *testing.T) string {
	t.Helper()
	h := livetest.Hosting{}.Start(t, livetest.Permissive())
	livetest.DialV1(t, h.Endpoint).Must(livetest.SubscribeTo(1, "t"))
	at := livetest.Serve(t, promhttp.HandlerFor(registryOf(t, New(h.Server, nil)), promhttp.HandlerOpts{}))
	resp, err := http.Get(at.HTTP())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestPromtoolFindsNothingInTheMetrics(t *testing.T) {
	if said, err := promtool(t, scraped(t), "check", "metrics"); err != nil || said != "" {
		t.Errorf("%v: %s", err, said)
	}
	if said, err := promtool(t, "# TYPE live_x counter\nlive_x 1\n", "check", "metrics"); err == nil || said == "" {
		t.Error("promtool does not check")
	}
}

func TestPromtoolFindsNothingInTheAlerts(t *testing.T) {
	folder := t.TempDir()
	write(t, folder, "alerts.yml", Alerts())
	config := write(t, folder, "prometheus.yml", "rule_files: [alerts.yml]\n")
	if said, err := promtool(t, "", "check", "config", config); err != nil || strings.Contains(said, "WARN") {
		t.Errorf("%v: %s", err, said)
	}
	if said, err := promtool(t, "", "check", "rules", "--lint-fatal", filepath.Join(folder, "alerts.yml")); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// Each alert fires when it should, and is silent for a server that is well: testdata/alerts_test.yml.
func TestAlertsFire(t *testing.T) {
	folder := t.TempDir()
	tests, err := os.ReadFile("testdata/alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, folder, "alerts.yml", Alerts())
	if said, err := promtool(t, "", "test", "rules", write(t, folder, "test.yml", string(tests))); err != nil {
		t.Errorf("%v: %s", err, said)
	}
	for _, rule := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(Alerts(), -1) {
		// It is expected twice: with an alert, and without any.
		if n := strings.Count(string(tests), "alertname: "+rule[1]+"\n"); n < 2 {
			t.Errorf("%s is tested %d times", rule[1], n)
		}
	}
}

// All that the dashboard asks is an expression that Prometheus can parse.
func TestDashboardAsksWhatPrometheusUnderstands(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	for i, e := range expressions(t) {
		e = strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*").Replace(e)
		text, _ := json.Marshal(e) // a string of JSON is one of YAML
		fmt.Fprintf(&rules, "      - record: panel_%d\n        expr: %s\n", i, text)
	}
	file := write(t, t.TempDir(), "dashboard.yml", rules.String())
	if said, err := promtool(t, "", "check", "rules", file); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// Prometheus scrapes a server, and evaluates the alerts on what it has scraped.
func TestPrometheusScrapes(t *testing.T) {
	h := livetest.Hosting{}.Start(t, livetest.Permissive())
	livetest.DialV1(t, h.Endpoint).Must(livetest.SubscribeTo(1, "t"))
	metrics := livetest.Serve(t, promhttp.HandlerFor(registryOf(t, New(h.Server, nil)), promhttp.HandlerOpts{}))
	folder := t.TempDir()
	write(t, folder, "alerts.yml", Alerts())
	config := write(t, folder, "prometheus.yml", fmt.Sprintf(`
global: { scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }
rule_files: [alerts.yml]
scrape_configs:
  - job_name: live
    metrics_path: %s
    static_configs: [ { targets: [%q] } ]
`, pathOf(t, metrics.HTTP()), metrics.Addr()))
	api := startPrometheus(t, folder, config)
	query := func(expr string) string {
		var answer struct {
			Data struct{ Result []struct{ Value [2]any } }
		}
		get(t, api+"/api/v1/query?query="+url.QueryEscape(expr), &answer)
		if len(answer.Data.Result) == 0 {
			return ""
		}
		return fmt.Sprint(answer.Data.Result[0].Value[1])
	}
	livetest.Eventually(t, "a scrape", func() bool { return query("live_sessions") == "1" })
	for expr, want := range map[string]string{
		`up{job="live"}`: "1", "live_subscriptions": "1", "live_ready": "1",
		"live_auth_seconds_count": "0", `live_sessions_closed_total{reason="lost"}`: "0",
	} {
		if got := query(expr); got != want {
			t.Errorf("%s is %q, want %q", expr, got, want)
		}
	}
	var rules struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, State, LastError string }
			}
		}
	}
	livetest.Eventually(t, "the evaluation of the alerts", func() bool {
		get(t, api+"/api/v1/rules", &rules)
		n := 0
		for _, g := range rules.Data.Groups {
			for _, r := range g.Rules {
				if r.Health == "err" || r.State != "inactive" {
					t.Fatalf("%+v", r)
				}
				if r.Health == "ok" {
					n++
				}
			}
		}
		return n > 0 && n == strings.Count(Alerts(), "- alert: ")
	})
}

func pathOf(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return "/" + strings.TrimPrefix(u.Path, "/")
}

func get(t *testing.T, address string, into any) {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// startPrometheus starts Prometheus, and returns the address of its API. It ends with the test.
func startPrometheus(t *testing.T, folder, config string) string {
	t.Helper()
	cmd := exec.Command("prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(folder, "data"),
		"--web.listen-address=127.0.0.1:0", "--log.format=logfmt")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v (make deps installs Prometheus)", err)
	}
	var log bytes.Buffer
	address := make(chan string, 1)
	ended := make(chan bool)
	go func() { // ends with Prometheus
		defer close(ended)
		listening := regexp.MustCompile(`msg="Listening on".* address=(\S+)`)
		lines := bufio.NewScanner(io.TeeReader(out, &log))
		for lines.Scan() {
			if found := listening.FindStringSubmatch(lines.Text()); found != nil {
				address <- found[1]
			}
		}
		close(address)
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		<-ended
		cmd.Wait()
		if t.Failed() {
			t.Logf("the log of Prometheus:\n%s", &log)
		}
		said := log.String()
		if i := slices.IndexFunc(strings.Split(said, "\n"), func(line string) bool {
			return strings.Contains(line, "level=warn") && !strings.Contains(line, "exiting gracefully") || strings.Contains(line, "level=error")
		}); i >= 0 {
			t.Errorf("Prometheus says: %s", strings.Split(said, "\n")[i])
		}
	})
	at, ok := <-address
	if !ok {
		t.Fatal("Prometheus has ended")
	}
	livetest.Eventually(t, "Prometheus is ready", func() bool {
		resp, err := http.Get("http://" + at + "/-/ready")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return "http://" + at
}
