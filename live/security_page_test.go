package live_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// Every Go snippet of docs/security.md is also in this file, where it is compiled.
func TestSnippetsOfTheSecurityPageCompile(t *testing.T) {
	livetest.InFiles(t, livetest.Snippets(t, livetest.ReadFile(t, "../docs/security.md"), 3, "go"), "security_page_test.go")
}

func rulesOfOrders(ownsOrder func(ctx context.Context, user, id string) bool) live.Options {
	opts := live.Options{
		OnSubscribe: func(ctx context.Context, s *live.Session, topic string) error {
			id, ok := strings.CutPrefix(topic, "orders:")
			if !ok || !ownsOrder(ctx, s.UserID(), id) {
				return errors.New("not your order") // the client is told "forbidden", and no more
			}
			return nil
		},
		OnPublish: func(ctx context.Context, s *live.Session, topic string, data []byte) ([]byte, error) {
			return json.Marshal(map[string]any{"by": s.UserID(), "said": json.RawMessage(data)})
		},
	}
	return opts
}

func onlyFor(next http.Handler, hosts ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(hosts, r.Host) {
			http.Error(w, "this server has another name", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

var _ = func() *live.Server {
	return live.New(live.Options{ReadLimit: 64 << 10, InboxBytes: 64 << 10, QueueBytes: 256 << 10, MaxTopics: 100})
}

// What the page says of topics and authors is so.
func TestUsersHaveTheirOwnTopicsAndTheirOwnNames(t *testing.T) {
	t.Parallel()
	opts := rulesOfOrders(func(_ context.Context, user, id string) bool { return user == "ann" && id == "17" })
	opts.OnAuth = func(context.Context, *http.Request) (any, error) { return "ann", nil }
	c := livetest.DialV1(t, livetest.Hosting{}.Start(t, opts).Endpoint)
	for i, op := range []string{"subscribe", "history"} {
		for _, topic := range []string{"orders:18", "orders:", "Orders:17", "else"} {
			livetest.Refused(t, op+" "+topic, c.Do(livetest.Operation(op, i+1, topic, "limit", 1)), i+1, "forbidden")
		}
	}
	c.Must(livetest.SubscribeTo(3, "orders:17"))
	c.Say(livetest.Operation("publish", 4, "orders:17", "data", map[string]string{"by": "bob"}))
	c.Hears("orders:17", `{"by":"ann","said":{"by":"bob"}}`)
}

// A page whose name was made to point to this server is of the server's own site, as far as Origin
// tells. Its Host tells more.
func TestReboundNameIsRefusedByItsHost(t *testing.T) {
	t.Parallel()
	const evil = "evil.example:8080"
	page := http.Header{"Origin": {"http://" + evil}}
	calledEvil := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Host = evil
			next.ServeHTTP(w, r)
		})
	}
	server := livetest.NewServer(t, live.Options{Logger: livetest.Quiet})
	open := livetest.Serve(t, calledEvil(server.Handler()))
	livetest.Connect(t, open, livetest.Dialing{Header: page}).Leave()
	closed := livetest.Serve(t, calledEvil(onlyFor(server.Handler(), "localhost:8080")))
	if status := livetest.Refusal(t, closed, page); status != http.StatusMisdirectedRequest {
		t.Errorf("the status is %d", status)
	}
	own := livetest.Serve(t, calledEvil(onlyFor(server.Handler(), "localhost:8080", evil)))
	livetest.Connect(t, own, livetest.Dialing{Header: page}).Leave()
}
