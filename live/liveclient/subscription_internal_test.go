package liveclient

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
)

// A program that subscribes and unsubscribes faster than the server reads fills no memory. When the server reads on, it learns what
// has become of each topic.
func TestSubscriptionsThatDoNotFitAreToldLater(t *testing.T) {
	c, cn := unconnected(t, Options{MaxUnsent: 500})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for range 1000 {
		for topic := range 8 {
			s, err := c.Subscribe(fmt.Sprint("topic ", topic), nil)
			if err != nil {
				t.Fatal(err)
			}
			c.Ping(ended)
			s.Unsubscribe()
		}
	}
	for topic := range 5 {
		if _, err := c.Subscribe(fmt.Sprint("topic ", topic), nil); err != nil {
			t.Fatal(err)
		}
	}
	for topic := range 100 { // the server never hears of these
		s, err := c.Subscribe(fmt.Sprint("brief ", topic), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.Unsubscribe()
	}
	if cn.unsent > 600 || len(cn.untold) > 8 {
		t.Errorf("%d bytes and %d topics wait", cn.unsent, len(cn.untold))
	}
	server := make(map[string]bool)
	frames := 0
	for text, _ := c.nextOutgoing(cn); text != nil; text, _ = c.nextOutgoing(cn) {
		c.written(cn, len(text))
		var ops []struct{ Op, Topic string }
		if text[0] != '[' {
			text = fmt.Appendf(nil, "[%s]", text)
		}
		if err := json.Unmarshal(text, &ops); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		for _, op := range ops {
			switch op.Op {
			case "subscribe":
				server[op.Topic] = true
			case "unsubscribe":
				delete(server, op.Topic)
			}
		}
		frames++
	}
	if want := "map[topic 0:true topic 1:true topic 2:true topic 3:true topic 4:true]"; fmt.Sprint(server) != want || cn.unsent != 0 {
		t.Errorf("the server has %v, want %s; %d bytes wait", server, want, cn.unsent)
	}
	if frames > 100 {
		t.Errorf("%d frames", frames)
	}
}
