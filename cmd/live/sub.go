package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live/liveclient"
)

// printer prints what comes on topics. Subscriptions call it from goroutines of their own.
type printer struct {
	p      *program
	asJSON bool
	timed  bool          // lines begin with the time at which they came
	limit  int           // of messages that are printed; 0: there is none
	ended  chan struct{} // closed when limit messages are printed

	mu      sync.Mutex // guards printed, and is held while a line is printed
	printed int        // messages
}

// runSub follows topics until it is told to end, or -n messages have come.
func runSub(ctx context.Context, p *program, args []string) error {
	since := p.flags.String("since", "", "resume after this `position`; of one topic only")
	last := p.flags.Int("last", 0, "begin with the newest `n` messages, where the topic keeps history")
	limit := p.flags.Int("n", 0, "end after `n` messages; 0: go on")
	asJSON := p.flags.Bool("json", false, "print one JSON object a line")
	presence := p.flags.Bool("presence", false, "tell who joins and leaves")
	topics, err := p.arguments(args, -1)
	switch {
	case err != nil:
		return err
	case *since != "" && len(topics) > 1:
		return usageError("-since is the position of one topic")
	case *last < 0 || *last > 1000:
		return usageError("-last is from 0 to 1000")
	case *limit < 0:
		return usageError("-n is not below 0")
	}
	out := &printer{p: p, asJSON: *asJSON, timed: true, limit: *limit, ended: make(chan struct{})}
	client, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	ended := make(chan error, len(topics))
	for _, topic := range topics {
		opts := []liveclient.SubscribeOption{
			liveclient.Since(*since),
			liveclient.Last(*last),
			liveclient.Unseen(),
			liveclient.OnGap(out.gap),
			liveclient.OnState(func(state json.RawMessage, at string) { out.state(topic, state, at) }),
		}
		if *presence {
			opts = append(opts, liveclient.OnPresence(out.presence(topic)),
				liveclient.OnJoin(func(m liveclient.Member) { out.change(topic, "joined", m) }),
				liveclient.OnLeave(func(m liveclient.Member) { out.change(topic, "left", m) }),
				liveclient.OnChange(func(now, _ liveclient.Member) { out.change(topic, "changed", now) }))
		}
		s, err := client.Subscribe(topic, out.message, opts...)
		if err != nil {
			return err
		}
		go func() { // ends with the subscription, at the latest when the client is closed
			<-s.Done()
			ended <- s.Err()
		}()
	}
	for range topics {
		select {
		case err := <-ended: // the others may go on
			if client.Err() != nil {
				return client.Err()
			}
			if len(topics) == 1 {
				return explain(err)
			}
			fmt.Fprintln(p.err, "---", oneLine(explain(err).Error()))
		case <-out.ended:
			return nil
		case <-p.out.failed:
			return nil // run returns the error of the output
		case <-ctx.Done():
			return nil
		}
	}
	return fmt.Errorf("no subscription is left")
}

func (o *printer) message(m liveclient.Message) {
	if o.asJSON {
		o.print(true, map[string]any{"topic": m.Topic, "at": m.At, "key": m.Key, "removed": m.Removed, "recovered": m.Recovered, "data": m.Data})
		return
	}
	line := m.Topic
	if m.At != "" {
		line += "  " + m.At
	}
	if m.Key != "" {
		line += "  [" + m.Key + "]"
	}
	data := string(m.Data)
	if m.Removed {
		data = "(removed)"
	}
	if m.Recovered {
		data += "  (earlier)"
	}
	o.print(true, line+"  "+data)
}

func (o *printer) state(topic string, state json.RawMessage, at string) {
	if o.asJSON {
		o.print(true, map[string]any{"topic": topic, "at": at, "state": state})
		return
	}
	o.print(true, fmt.Sprintf("%s  %s  state %s", topic, at, state))
}

func (o *printer) gap(g liveclient.Gap) {
	if o.asJSON {
		o.print(false, map[string]any{"topic": g.Topic, "gap": g.Reason})
		return
	}
	o.print(false, fmt.Sprintf("%s  --- gap: messages are missing here, or may be (%s)", g.Topic, g.Reason))
}

func (o *printer) change(topic, what string, m liveclient.Member) {
	if o.asJSON {
		o.print(false, map[string]any{"topic": topic, what: m.ID, "sessions": m.Sessions})
		return
	}
	o.print(false, fmt.Sprintf("%s  %s %s %s", topic, m.ID, what, infos(m)))
}

// presence returns a function that tells who is present when that becomes known. Later it tells only the
// number, and only if the server tells no more than that.
func (o *printer) presence(topic string) func(liveclient.Presence) {
	known := false
	return func(p liveclient.Presence) {
		if known && p.Members != nil || p.Count < 0 {
			return
		}
		known = true
		ids := make([]string, len(p.Members))
		for i, m := range p.Members {
			ids[i] = m.ID
		}
		if o.asJSON {
			o.print(false, map[string]any{"topic": topic, "present": p.Count, "members": ids})
			return
		}
		o.print(false, strings.TrimSpace(fmt.Sprintf("%s  %d present  %s", topic, p.Count, strings.Join(ids, ", "))))
	}
}

// print prints a line of text, or an object as JSON. counts says that it counts for -n.
func (o *printer) print(counts bool, line any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.limit > 0 && o.printed == o.limit {
		return
	}
	if object, ok := line.(map[string]any); ok {
		for name, value := range object { // empty values are left out
			if raw, isJSON := value.(json.RawMessage); value == "" || value == false || (isJSON && raw == nil) {
				delete(object, name)
			}
		}
		printJSON(o.p.out, object)
	} else {
		text := oneLine(fmt.Sprint(line))
		if o.timed {
			text = time.Now().Format("15:04:05.000") + "  " + text
		}
		fmt.Fprintln(o.p.out, text)
	}
	if counts {
		if o.printed++; o.printed == o.limit {
			close(o.ended)
		}
	}
}
