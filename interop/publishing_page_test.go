package interop

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/broker"
)

// snippetsIn returns the blocks of docs/publishing.md in a language, without those of the part on NATS, which
// a test of natsbroker runs.
func snippetsIn(t *testing.T, language string) []string {
	t.Helper()
	page := livetest.ReadFile(t, "../docs/publishing.md")
	page = strings.Replace(page, livetest.Section(t, page, "Over NATS"), "", 1)
	return livetest.Snippets(t, page, 1, language)
}

// Each Go snippet of the page is repeated in this file, where it is compiled.
func TestGoSnippetsOfThePublishingPageCompile(t *testing.T) {
	livetest.InFiles(t, snippetsIn(t, "go"), "publishing_page_test.go")
}

// handlerOfThePage serves the first snippet.
func handlerOfThePage(server *live.Server, token string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /publish", server.PublishHandler(live.PublishHandlerOptions{
		Auth: func(_ context.Context, r *http.Request) (any, error) {
			if token == "" || subtle.ConstantTimeCompare([]byte(live.Token(r)), []byte(token)) == 0 {
				return nil, errors.New("unknown token")
			}
			return "build server", nil
		},
	}))
	return mux
}

func rulesOfThePage(auth func(context.Context, *http.Request) (any, error)) live.PublishHandlerOptions {
	opts := live.PublishHandlerOptions{
		Auth: auth, // returns the name of the caller
		OnPublish: func(_ context.Context, caller any, p *live.HTTPPublication) error {
			if !strings.HasPrefix(p.Topic, "builds:") {
				return errors.New("not a topic of the build server") // the caller is told "forbidden", and no more
			}
			if p.ID != "" {
				p.ID = fmt.Sprintf("%s/%s", caller, p.ID) // so that callers cannot choose the same ID
			}
			return nil
		},
	}
	return opts
}

// A snippet's first request is carried out, but its answer is lost. The second is refused for a moment.
// The publication is made once all the same.
func TestProgramsOfThePublishingPagePublishOnce(t *testing.T) {
	for _, c := range []struct {
		language, program string
		args              []string
		want              string
		lostAs            int // the status of an answer that is lost; 0: the connection breaks
	}{
		{"python", "python3", []string{"-"}, `{"id": 17, "state": "shipped"}`, 0},
		{"js", "node", []string{"--input-type=module", "-"}, `{"id":17,"state":"shipped"}`, 0},
		{"sh", "sh", []string{"-e"}, `{"id":17}`, http.StatusServiceUnavailable}, // curl sends again only what was answered
	} {
		t.Run(c.language, func(t *testing.T) {
			t.Parallel()
			needed := c.program
			if c.language == "sh" {
				needed = "curl"
			}
			if _, err := exec.LookPath(needed); err != nil {
				t.Skip(err)
			}
			server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet, Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} }})
			pageHandler := handlerOfThePage(server, "secret")
			var requests atomic.Int64
			at := livetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch n := requests.Add(1); {
				case n == 1:
					pageHandler.ServeHTTP(httptest.NewRecorder(), r)
					if c.lostAs == 0 {
						panic(http.ErrAbortHandler) // breaks the connection
					}
					w.WriteHeader(c.lostAs)
				case n == 2 && c.lostAs == 0:
					w.Header().Set("Retry-After", "0")
					w.WriteHeader(http.StatusServiceUnavailable)
				default:
					pageHandler.ServeHTTP(w, r)
				}
			}))
			run := func(token string) (output, errors string, err error) {
				cmd := exec.CommandContext(t.Context(), c.program, c.args...)
				cmd.Env = append(os.Environ(), "LIVE_URL="+at.HTTP()+"/publish", "LIVE_TOKEN="+token)
				cmd.Stdin = strings.NewReader(snippetsIn(t, c.language)[0])
				var out, failure bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &failure
				err = cmd.Run()
				return out.String(), failure.String(), err
			}
			output, failure, err := run("secret")
			if err != nil {
				t.Fatalf("%v: %s", err, failure)
			}
			made, err := server.History(t.Context(), "orders", 10)
			if err != nil || len(made) != 1 || string(made[0].Data) != c.want {
				t.Fatalf("made: %v, %v", made, err)
			}
			if !strings.Contains(output, made[0].Position.String()) {
				t.Errorf("it says %q, without the position %v", output, made[0].Position)
			}
			if n := requests.Load(); n < 2 {
				t.Errorf("%d requests", n)
			}
			before := requests.Load()
			output, failure, err = run("wrong")
			if err == nil || !strings.Contains(output+failure, "authentication failed") || requests.Load() != before+1 {
				t.Errorf("with a wrong token: %v, %s%s, %d requests", err, output, failure, requests.Load()-before)
			}
		})
	}
}

// The rules of the page let a caller into its own topics, under its own name.
func TestRulesOfThePublishingPage(t *testing.T) {
	t.Parallel()
	server := livetest.NewServer(t, live.Options{Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} }})
	named := func(_ context.Context, r *http.Request) (any, error) { return live.Token(r), nil }
	at := livetest.Serve(t, server.PublishHandler(rulesOfThePage(named)))
	for _, caller := range []string{"a", "a", "b"} {
		if status, body := send(t, at.HTTP(), caller, `{"topic":"builds:1","data":1,"id":"x"}`); status != 202 {
			t.Errorf("%d %s", status, body)
		}
		if status, body := send(t, at.HTTP(), caller, `{"topic":"orders","data":1,"id":"x"}`); status != 403 || strings.Contains(body, "build server") {
			t.Errorf("%d %s", status, body)
		}
	}
	if made, err := server.History(t.Context(), "builds:1", 10); err != nil || len(made) != 2 {
		t.Errorf("made: %v, %v", made, err)
	}
	for range 2 { // publications without an ID are not repetitions of one another
		if status, body := send(t, at.HTTP(), "a", `{"topic":"builds:2","data":1}`); status != 202 {
			t.Errorf("%d %s", status, body)
		}
	}
	if made, err := server.History(t.Context(), "builds:2", 10); err != nil || len(made) != 2 {
		t.Errorf("made without an ID: %v, %v", made, err)
	}
}

// Nobody may publish if the program was started without a token.
func TestPublishingPageRefusesAnEmptyToken(t *testing.T) {
	t.Parallel()
	at := livetest.Serve(t, handlerOfThePage(livetest.NewServer(t, live.Options{Logger: livetest.Quiet}), ""))
	if status, body := send(t, at.HTTP()+"/publish", "", `{"topic":"orders","data":1}`); status != http.StatusUnauthorized {
		t.Errorf("%d %s", status, body)
	}
}

// breaksAfterOne is a broker that is away after its first publication.
type breaksAfterOne struct {
	*live.MemoryBroker
	made atomic.Int64
}

func (b *breaksAfterOne) Publish(ctx context.Context, topic string, data []byte, o broker.PublishOptions) (live.Position, error) {
	if b.made.Add(1) > 1 {
		return live.Position{}, live.ErrUnavailable
	}
	return b.MemoryBroker.Publish(ctx, topic, data, o)
}

// The answers that the page shows are the handler's.
func TestAnswersOfThePublishingPage(t *testing.T) {
	t.Parallel()
	b := &breaksAfterOne{MemoryBroker: live.NewMemoryBroker(live.MemoryOptions{})}
	server := livetest.NewServer(t, live.Options{Broker: b, Logger: livetest.Quiet, Topics: func(string) live.TopicOptions { return live.TopicOptions{History: 10} }})
	at := livetest.Serve(t, handlerOfThePage(server, "secret"))
	shown := snippetsIn(t, "json")
	for i, body := range []string{
		`[{"topic":"t","data":1},{"topic":"t"}]`,
		`[{"topic":"t","data":1},{"topic":"t","data":2},{"topic":"t","data":3}]`,
	} {
		_, got := send(t, at.HTTP()+"/publish", "secret", body)
		var want, have any
		if err := errors.Join(json.Unmarshal([]byte(shown[i]), &want), json.Unmarshal([]byte(got), &have)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(elide(have, want), want) {
			t.Errorf("%s\nis answered with %s, want %s", body, got, shown[i])
		}
	}
}

// elide replaces the texts of a value that the other leaves out with "…".
func elide(v, by any) any {
	switch by := by.(type) {
	case string:
		if _, isText := v.(string); isText && by == "…" {
			return by
		}
	case map[string]any:
		if m, ok := v.(map[string]any); ok {
			for name := range m {
				m[name] = elide(m[name], by[name])
			}
		}
	case []any:
		if list, ok := v.([]any); ok && len(list) == len(by) {
			for i := range list {
				list[i] = elide(list[i], by[i])
			}
		}
	}
	return v
}

func send(t *testing.T, url, token, body string) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}
