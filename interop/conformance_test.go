package interop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// conformanceServer is what both clients go through the protocol with. It pings every
// 300 ms, and wants an answer as soon.
func conformanceServer(t *testing.T) livetest.Endpoint {
	opts := livetest.Permissive()
	opts.PingInterval, opts.PingTimeout = 300*time.Millisecond, 600*time.Millisecond
	opts.OnAuth = func(_ context.Context, r *http.Request) (any, error) {
		if live.Token(r) != "secret" {
			return nil, errors.New("no")
		}
		return nil, nil
	}
	opts.Topics = func(topic string) live.TopicOptions {
		return live.TopicOptions{History: map[string]int{"chat": 100, "brief": 2, "large": 1000}[topic]}
	}
	opts.OnSubscribe = func(_ context.Context, _ *live.Session, topic string) error {
		if topic == "private" {
			return errors.New("no")
		}
		return nil
	}
	opts.OnPublish = func(_ context.Context, _ *live.Session, topic string, data []byte) ([]byte, error) {
		return data, opts.OnSubscribe(nil, nil, topic)
	}
	opts.OnRequest = func(_ context.Context, s *live.Session, topic string, data []byte) (any, error) {
		switch topic {
		case "late":
			return nil, &live.ClientError{Code: "too_late", Message: "it is over"}
		case "tell me":
			return nil, s.Send(live.Message{Topic: "a word", Data: data})
		case "end":
			time.AfterFunc(50*time.Millisecond, func() { s.Close() }) // after the reply
			return nil, nil
		}
		if data == nil {
			return nil, nil
		}
		return json.RawMessage(data), nil
	}
	return livetest.Serve(t, livetest.NewServer(t, opts).Handler())
}

// twin prints what node/conformance.mjs prints.
type twin struct {
	t    testing.TB
	at   livetest.Endpoint
	out  bytes.Buffer
	ids  int
	seen map[string]string // positions
}

func (w *twin) print(words ...any) { fmt.Fprintln(&w.out, words...) }

func (w *twin) dial() *livetest.Client {
	return livetest.DialV1(w.t, w.at, "live.token."+base64.RawURLEncoding.EncodeToString([]byte("secret")))
}

func place(at string) string {
	if at == "" {
		return "nowhere"
	}
	return at[strings.LastIndexByte(at, '.')+1:]
}

func orNothing(data json.RawMessage) string {
	if data == nil {
		return "nothing"
	}
	return string(data)
}

// trying does an operation; members are those besides op and id.
func (w *twin) trying(what string, c *livetest.Client, op, members string) {
	w.t.Helper()
	w.ids++
	c.Send(fmt.Sprintf(`{"op":%q,"id":%d,%s}`, op, w.ids, members))
	f, before := c.Answer()
	for _, told := range before {
		w.print("told", told.Topic, orNothing(told.Data))
	}
	if f.ID != w.ids {
		w.t.Fatalf("%s was answered by %s", what, f.Raw)
	}
	if f.Op == "error" {
		w.print(what, "refused", f.Code)
		return
	}
	recovered, messages := "nothing", "nothing"
	if f.Recovered != nil {
		recovered = fmt.Sprint(*f.Recovered)
	}
	if f.Messages != nil {
		messages = listOf(f.Messages)
	}
	w.print(what, "done", place(f.At), orNothing(f.Data), recovered, messages)
}

func (w *twin) subscribe(what string, c *livetest.Client, topic string) {
	w.trying(what, c, "subscribe", fmt.Sprintf(`"topic":%q`, topic))
}

func (w *twin) publish(what string, c *livetest.Client, topic, data string) {
	w.trying(what, c, "publish", fmt.Sprintf(`"topic":%q,"data":%s`, topic, data))
}

func (w *twin) request(what string, c *livetest.Client, topic, data string) {
	if data != "" {
		data = `,"data":` + data
	}
	w.trying(what, c, "request", fmt.Sprintf(`"topic":%q%s`, topic, data))
}

// digest stands for what is too long to print: its SHA-256.
func digest(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text))) }

// listOf is JSON of publications and their numbers.
func listOf(messages []livetest.Past) string {
	all := make([]string, len(messages))
	for i, m := range messages {
		all[i] = fmt.Sprintf(`[%s,%q]`, m.Data, place(m.At))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// lots is how many publications of topic large are missed, of 500 bytes each: some parts.
const lots = 500

func largeData(n int) string { return fmt.Sprintf(`"%0498d"`, n) }

// answerText is JSON of 200 KB, with characters of every length in UTF-8.
var answerText = `"` + strings.Repeat(`grüße, 世界 🎉 \"\n`, 200<<10/25) + `"`

func (w *twin) hear(c *livetest.Client) {
	w.t.Helper()
	f := c.Next()
	w.heard(f.Topic, f.Data, f.At)
}

func (w *twin) heard(topic string, data json.RawMessage, at string) {
	w.print("heard", topic, orNothing(data), place(at))
	w.seen[topic] = at
}

func (w *twin) run() string {
	c := w.dial()
	w.print("hello", c.Hello.Version, c.Hello.Ping, "string")
	other := w.dial()
	w.subscribe("subscribe plain", c, "plain")
	w.subscribe("subscribe chat", c, "chat")
	w.subscribe("subscribe brief", c, "brief")
	w.subscribe("subscribe large", c, "large")
	w.publish("publish plain", other, "plain", `{"text":"hello"}`)
	w.hear(c)
	for _, n := range livetest.Numbers(1, 3) {
		w.publish("publish chat", other, "chat", n)
		w.hear(c)
	}
	w.publish("publish brief", other, "brief", `"first"`)
	w.hear(c)
	w.request("request", c, "echo", `{"a":[1,"ü",null]}`)
	w.request("request of nothing", c, "echo", "")
	w.trying("history", c, "history", `"topic":"chat","limit":2`)
	w.trying("history of nothing", c, "history", `"topic":"plain","limit":2`)
	w.subscribe("forbidden topic", c, "private")
	w.publish("forbidden publication", c, "private", "1")
	w.publish("no topic", c, "", "1")
	w.request("a code of the application", c, "late", "")
	w.request("tell me", c, "tell me", "7")
	large := c.Must(`{"op":"request","id":1000,"topic":"echo","data":` + answerText + `}`)
	w.print("large request", len(large.Data), digest(string(large.Data)))
	w.publish("publish large", other, "large", largeData(0))
	w.seen["large"] = c.Hears("large", largeData(0))[0].At
	w.print("heard large", place(w.seen["large"]))

	c.Drop()
	other.Send(livetest.Array(lots, func(i int) string {
		return fmt.Sprintf(`{"op":"publish","id":%d,"topic":"large","data":%s}`, 2000+i, largeData(i+1))
	}))
	for i := range lots {
		if f, _ := other.Answer(); f.Op != "reply" || f.ID != 2000+i {
			w.t.Fatalf("publication %d was answered by %s", i, f.Raw)
		}
	}
	for _, n := range livetest.Numbers(4, 6) {
		w.publish("publish chat", other, "chat", n)
		w.publish("publish brief", other, "brief", n)
	}
	c = w.dial()
	resumeLarge := livetest.ResumeFrom(4, "large", w.seen["large"])
	c.Send("[" + livetest.SubscribeTo(1, "plain") + "," + livetest.ResumeFrom(2, "chat", w.seen["chat"]) + "," +
		livetest.ResumeFrom(3, "brief", w.seen["brief"]) + "," + resumeLarge + "]")
	c.Next()
	chat := c.Next()
	for _, m := range chat.Messages {
		w.heard("chat", m.Data, m.At)
	}
	w.print("resumed chat", chat.WasRecovered(), len(chat.Messages))
	if brief := c.Next(); !brief.WasRecovered() {
		w.print("gap brief", place(brief.At))
	}
	reply := c.Next()
	inReply := len(reply.Messages)
	reply = c.Followed(resumeLarge, reply, lots+1)
	w.print("resumed large", reply.WasRecovered(), inReply > 0 && inReply < lots, place(reply.At),
		len(reply.Messages), digest(listOf(reply.Messages)))
	past := c.Must(fmt.Sprintf(`{"op":"history","id":1000,"topic":"large","limit":%d}`, lots)).Messages
	w.print("large history", len(past), digest(listOf(past)))
	w.publish("publish large", other, "large", `"small"`)
	w.hear(c)
	w.publish("publish brief", other, "brief", `"last"`)
	w.hear(c)
	w.trying("unsubscribe", c, "unsubscribe", `"topic":"chat"`)
	w.publish("publish chat", other, "chat", "7")
	w.trying("subscribe with last", c, "subscribe", `"topic":"chat","last":2`)

	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for c.Waiting()+other.Waiting() > 0 { // pings
			c.Settled()
			other.Settled()
		}
	}
	w.request("still here", c, "echo", `"yes"`)
	w.request("end", c, "end", "")
	_, code := c.Rest()
	w.print("ended", code)
	third := w.dial()
	third.Send("this is no frame")
	_, code = third.Rest()
	w.print("ended", code)
	return w.out.String()
}

// Two clients that know nothing of one another, one written from the page in
// another language, see the same.
func TestClientInNodeSeesWhatAClientInGoSees(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), livetest.Patience)
	defer cancel()
	node := exec.CommandContext(ctx, "node", "node/conformance.mjs", conformanceServer(t).URL)
	var said bytes.Buffer
	node.Stderr = &said
	out, err := node.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s%s", err, out, said.String())
	}
	want := (&twin{t: t, at: conformanceServer(t), seen: map[string]string{}}).run()
	got := strings.Split(string(out), "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(got) || got[i] != line {
			t.Fatalf("line %d\nnode %q\ngo   %q\n\nnode:\n%s\ngo:\n%s", i+1, got[min(i, len(got)-1):min(i+1, len(got))], line, out, want)
		}
	}
	if strings.Count(want, "\n") < 50 {
		t.Errorf("only %d lines", strings.Count(want, "\n"))
	}
}
