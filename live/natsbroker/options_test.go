package natsbroker

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestOptionsThatMakeNoSense(t *testing.T) {
	chat := StreamConfig{Name: "CHAT", Subjects: []string{"chat.>"}}
	with := func(change func(c *StreamConfig)) []StreamConfig {
		c := chat
		change(&c)
		return []StreamConfig{c}
	}
	for want, o := range map[string]Options{
		"both Servers and Conn":                {Servers: []string{"nats://127.0.0.1:1"}, Conn: &nats.Conn{}},
		"Options.Cluster":                      {Servers: []string{"nats://127.0.0.1:1"}, Cluster: &Cluster{Listen: "127.0.0.1:0"}},
		"Options.StoreDir":                     {Servers: []string{"nats://127.0.0.1:1"}, StoreDir: "x"},
		"Options.Connect":                      {Connect: []nats.Option{nats.Name("x")}},
		`prefix "a.b"`:                         {Prefix: "a.b"},
		`prefix ">"`:                           {Prefix: ">"},
		"Options.Default":                      {Default: chat},
		"two streams":                          {Streams: []StreamConfig{chat, chat}},
		`"CH.AT" cannot be`:                    {Streams: with(func(c *StreamConfig) { c.Name = "CH.AT" })},
		`"" cannot be the name`:                {Streams: with(func(c *StreamConfig) { c.Name = "" })},
		"covers no topic":                      {Streams: with(func(c *StreamConfig) { c.Subjects = nil })},
		"an empty part":                        {Streams: with(func(c *StreamConfig) { c.Subjects = []string{"a..b"} })},
		`Subjects "chat.>" and "chat:a" cover`: {Streams: with(func(c *StreamConfig) { c.Subjects = []string{"chat.>", "chat:a"} })},
		`"chat.>" of stream "CHAT" and "*:1" of stream "ROOM"`: {Streams: append(with(func(*StreamConfig) {}), StreamConfig{Name: "ROOM", Subjects: []string{"room", "*:1"}})},
		"a negative bound":        {Streams: with(func(c *StreamConfig) { c.MaxMsgs = -1 })},
		"MaxAge is under 100 ms":  {Streams: with(func(c *StreamConfig) { c.MaxAge = time.Millisecond })},
		`"LIVE" has a negative`:   {Default: StreamConfig{MaxMsgs: -1}},
		`"LIVE": MaxAge is under`: {Default: StreamConfig{MaxAge: time.Millisecond}},
		"name of Options.Default": {Streams: with(func(c *StreamConfig) { c.Name = "LIVE" })},
	} {
		wantRefused(t, o, want)
	}
}

// wantRefused checks that New refuses options, with an error that contains want.
func wantRefused(t *testing.T, o Options, want string) {
	t.Helper()
	o.Logger = quiet()
	b, err := New(o)
	if err == nil {
		b.Close(context.Background())
	}
	if err == nil || !strings.HasPrefix(err.Error(), "natsbroker: ") || !strings.Contains(err.Error(), want) {
		t.Errorf("the error is %v; want one with %q", err, want)
	}
}
