package simcluster_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

// ear is Go code that listens to a topic at a node, and makes the same view of it as a client does.
type ear struct {
	world *world
	node  int
	topic string

	mu       sync.Mutex // guards the fields below
	view     *view
	complete bool              // it has listened since before the first publication, or from a state on
	early    bool              // there was a gap without a state before Listen returned
	sub      live.Subscription // nil: it does not listen yet, or listens anew since there was no state after a gap
}

// listen has every server listen to every topic.
func (w *world) listen() {
	for i := range w.servers {
		for _, topic := range w.topics {
			e := &ear{world: w, node: i, topic: topic, view: newView()}
			w.ears = append(w.ears, e)
			go e.begin() // ends when the server listens
		}
	}
}

// begin listens, as soon as the faults allow it.
func (e *ear) begin() {
	s := e.world.servers[e.node]
	opts := []live.ListenOption{live.OnGap(e.gap)}
	if !e.world.rules.Keyed {
		opts = append(opts, live.OnState(e.state))
	}
	for {
		sub, err := s.Listen(e.topic, e.hear, opts...)
		if err == nil && e.began(sub) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// began reports whether the listener may go on: not if it was told of a gap already.
func (e *ear) began(sub live.Subscription) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.early {
		e.early = false
		go sub.Unsubscribe() // which takes locks that come before
		return false
	}
	e.sub = sub
	e.complete = e.complete || !e.world.rules.Keyed || len(e.world.sim.Log(e.topic)) == 0
	return true
}

func (e *ear) hear(m live.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.view.publication(m.Key, m.Data, m.Removed)
}

func (e *ear) state(state json.RawMessage) {
	var numbers []json.RawMessage
	if err := json.Unmarshal(state, &numbers); err != nil {
		panic(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.view.values)
	for _, n := range numbers {
		e.view.publication("", n, false)
	}
}

func (e *ear) gap(string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.world.rules.Keyed {
		clear(e.view.values)
		e.complete = true // every key follows
		return
	}
	if e.sub == nil { // it listens anew already, or began to listen just now
		e.early = true
		return
	}
	sub := e.sub
	e.sub, e.complete = nil, false
	go func() { // ends when the server listens
		sub.Unsubscribe()
		e.mu.Lock()
		e.early = false
		e.mu.Unlock()
		e.begin()
	}()
}

// compare compares what the listener knows with the truth, and ends it.
func (e *ear) compare(truth map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.complete && !maps.Equal(e.view.values, truth) {
		e.world.wrong <- fmt.Sprintf("listener at node %d, topic %s: it knows %v, and true is %v", e.node, e.topic, e.view.values, truth)
	}
	if e.complete {
		e.world.heard.Add(1)
	}
	go e.sub.Unsubscribe() // which takes locks that come before
}
