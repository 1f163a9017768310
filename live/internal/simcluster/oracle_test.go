package simcluster_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/internal/simcluster"
)

// oracle compares the frames that a client got for one topic with the topic's log. It knows only
// the promises of docs/protocol.md, not how servers work.
type oracle struct {
	sim   *simcluster.Sim
	topic string
	log   []simcluster.Entry
	place map[string]int // of data in the log

	// prompt is how late a publication may come to a client that is subscribed. The time counts
	// from when nothing prevents the delivery any more.
	prompt time.Duration
	free   time.Time

	wrong       []string
	notices     int // of gaps
	falseAlarms []string

	// These fields have the state of the client.
	begun      bool // it has a position
	subscribed bool
	since      time.Time
	next       int    // the place in the log of what must come next
	floor      int    // what is before that it has had, or was told that it will not have
	epoch      string // of its position
}

func newOracle(sim *simcluster.Sim, topic string) *oracle {
	o := &oracle{sim: sim, topic: topic, log: sim.Log(topic), place: make(map[string]int)}
	for i, e := range o.log {
		o.place[string(e.Data)] = i
	}
	return o
}

func (o *oracle) fail(e event, format string, args ...any) {
	o.wrong = append(o.wrong, fmt.Sprintf("%s: %s", e, fmt.Sprintf(format, args...)))
}

// judge checks the events of a client.
func (o *oracle) judge(events []event) {
	for i, e := range events {
		switch {
		case e.kind == "dial":
			o.subscribed = false
		case e.topic != o.topic:
		case e.kind == "subscribed":
			o.reply(e, events[i+1:])
			o.subscribed, o.since = true, e.time
		case e.kind == "resume":
			o.subscribed, o.since = true, e.time
		case e.kind == "unsubscribed" || e.kind == "error":
			o.subscribed = false
		case e.kind == "publication":
			if !o.subscribed {
				o.fail(e, "it is not subscribed")
			}
			o.message(e, string(e.frame.Data), e.frame.At)
			o.lateness(e)
		case e.kind == "gap":
			if !o.subscribed {
				o.fail(e, "it is not subscribed")
			}
			if at, ok := o.at(e, e.frame.At); ok {
				o.notice(e, at)
			}
		}
	}
}

// end checks that a client that has stayed has every publication.
func (o *oracle) end(client int) {
	o.skipLost(len(o.log))
	switch {
	case !o.subscribed:
		o.wrong = append(o.wrong, fmt.Sprintf("client %d is not subscribed at the end", client))
	case o.next != len(o.log):
		o.wrong = append(o.wrong, fmt.Sprintf("client %d has nothing from #%s on at the end, and was not told", client, o.name(o.next)))
	}
}

func (o *oracle) reply(e event, later []event) {
	at, ok := o.at(e, e.frame.At)
	if !ok {
		return
	}
	switch {
	case e.since == "": // the first time
		o.next = o.start(e, at)
		o.begun = true
		o.newest(e, at, later)
	case e.frame.Recovered == nil:
		o.fail(e, "recovered is missing")
	case *e.frame.Recovered:
		o.messages(e)
		o.skipLost(at)
		if o.next != at {
			o.fail(e, "recovered up to place %d, at is place %d", o.next, at)
		}
	default:
		o.notice(e, o.start(e, at))
		o.newest(e, at, later)
	}
	o.move(e)
}

// start returns the place in the log at which the messages of a reply begin.
func (o *oracle) start(e event, at int) int {
	if len(e.frame.Messages) > 0 {
		if place, ok := o.place[string(e.frame.Messages[0].Data)]; ok && place < at {
			return place
		}
	}
	return at - len(e.frame.Messages)
}

// lostTo reports whether an epoch lacks the publication at a place of the log, because the history
// lost its end before that epoch began.
func (o *oracle) lostTo(epoch string, place int) bool {
	lost := o.log[place].Lost
	return !lost.IsZero() && !o.sim.Since(o.topic, epoch).Before(lost)
}

func (o *oracle) messages(e event) {
	for _, m := range e.frame.Messages {
		o.message(e, string(m.Data), m.At)
	}
}

// message checks the next publication.
func (o *oracle) message(e event, data, at string) {
	place, known := o.place[data]
	switch {
	case !known:
		o.fail(e, "#%s was never published", brief(data))
		return
	case place > o.next:
		o.skipLost(place)
	}
	switch {
	case place < o.floor:
		o.fail(e, "#%s comes again, or late: #%s was to come", brief(data), o.name(o.floor))
	case place > o.next:
		o.fail(e, "#%s comes, and %s did not, in silence", brief(data), o.names(o.next, place))
	}
	if n, ok := o.at(e, at); ok && n != place+1 {
		o.fail(e, "#%s is at place %d, its position is place %d", brief(data), place+1, n)
	}
	o.next = place + 1
	o.floor = max(o.floor, o.next)
	o.move(e)
}

// skipLost moves on to a place, but only past publications that the client's epoch lacks.
func (o *oracle) skipLost(place int) {
	for o.next < place && o.lostTo(o.epoch, o.next) {
		o.next++
	}
}

// lateness checks that a publication comes promptly.
func (o *oracle) lateness(e event) {
	from := o.log[max(o.next-1, 0)].Time
	for _, later := range []time.Time{o.since, o.free} {
		if from.Before(later) {
			from = later
		}
	}
	if late := e.time.Sub(from); late > o.prompt {
		o.fail(e, "comes %v late", late)
	}
}

// newest checks the newest messages, up to a place. The client has asked for them.
func (o *oracle) newest(e event, at int, later []event) {
	if len(e.frame.Messages) > e.last {
		o.fail(e, "more messages than it asked for")
	}
	position, _ := live.ParsePosition(e.frame.At)
	first := o.endOfAnswer(e, at, later)
	for n := 0; first > 0 && n < e.last; first-- {
		if !o.lostTo(position.Epoch, first-1) {
			n++
		}
	}
	for i := first; i < o.start(e, at); i++ {
		if o.lostTo(position.Epoch, i) {
			continue
		}
		if gone := o.log[i].Gone; gone.IsZero() || gone.After(e.time) {
			o.fail(e, "#%s is among the newest %d, and is missing", o.name(i), e.last)
		}
	}
	o.messages(e)
	o.skipLost(at)
	if o.next != at {
		o.fail(e, "the newest are those up to place %d, at is place %d", o.next, at)
	}
}

// endOfAnswer returns the place in the log at which the answer with the newest messages ends. It may end
// after the position of the reply. Then the publications up to there come after the reply, or the
// connection or the subscription ends before. There are two such cases:
//   - The answer is too long for one part. The rest of it is marked as recovered.
//   - The broker told of publications that the node's feed did not have yet.
func (o *oracle) endOfAnswer(e event, at int, later []event) int {
	end := max(at, o.lengthAt(e.time))
	for _, next := range later {
		if next.kind == "end" || next.kind == "dial" || next.topic == o.topic && next.kind != "publication" {
			break
		}
		if next.topic != o.topic {
			continue
		}
		if next.frame.Recovered == nil || !*next.frame.Recovered {
			break
		}
		if place, ok := o.place[string(next.frame.Data)]; ok {
			end = max(end, place+1)
		}
	}
	return end
}

// notice checks a gap: the client goes on at a later place.
func (o *oracle) notice(e event, at int) {
	o.notices++
	if !o.excused(e) {
		o.falseAlarms = append(o.falseAlarms, fmt.Sprintf("%s: nothing of %s was lost to the history", e, o.names(o.next, at)))
	}
	o.next = at // which may be earlier, in an epoch that has ended
	before := o.epoch
	o.move(e)
	if o.floor = max(o.floor, o.next); o.epoch != before {
		o.floor = o.next // an epoch may begin with what the client had in the one before
	}
}

// excused reports whether a gap is allowed: because a publication that the client lacks was
// dropped, because its epoch has ended, or because the node could not ask.
func (o *oracle) excused(e event) bool {
	if o.sim.Epoch(o.topic, e.time) != o.epoch {
		return true
	}
	for _, missing := range o.log[min(o.next, o.lengthAt(e.time)):o.lengthAt(e.time)] {
		if !missing.Gone.IsZero() && !missing.Gone.After(e.time) {
			return true
		}
	}
	for _, i := range o.sim.Incidents() {
		ago := e.time.Sub(i.Time)
		if (i.Node == e.node || i.Node < 0) && (i.Topic == "" || i.Topic == o.topic) && ago >= 0 && ago < 10*time.Second &&
			(strings.HasPrefix(i.What, "refused") || strings.HasPrefix(i.What, "cut") || strings.HasPrefix(i.What, "outage")) {
			return true
		}
	}
	return false
}

// at returns the place in the log of the publication that follows a position.
func (o *oracle) at(e event, text string) (place int, ok bool) {
	p, err := live.ParsePosition(text)
	if err != nil || text == "" {
		o.fail(e, "%q is no position", text)
		return 0, false
	}
	place, ok = o.sim.Find(o.topic, p)
	if !ok {
		o.fail(e, "position %s is of no epoch", text)
		return 0, false
	}
	if place > o.lengthAt(e.time) {
		o.fail(e, "position %s lies ahead", text)
		return 0, false
	}
	return place, true
}

// move records the epoch of the client's position.
func (o *oracle) move(e event) {
	text := e.frame.At
	if n := len(e.frame.Messages); text == "" && n > 0 {
		text = e.frame.Messages[n-1].At
	}
	if p, err := live.ParsePosition(text); err == nil {
		o.epoch = p.Epoch
	}
}

// lengthAt returns how long the log was at a time.
func (o *oracle) lengthAt(t time.Time) int {
	for n := len(o.log); n > 0; n-- {
		if !o.log[n-1].Time.After(t) {
			return n
		}
	}
	return 0
}

func (o *oracle) name(i int) string {
	if i < len(o.log) {
		return brief(o.log[i].Data)
	}
	return "end"
}

func (o *oracle) names(from, to int) string {
	if from >= to {
		return "nothing"
	}
	if from+1 == to {
		return "#" + o.name(from)
	}
	return fmt.Sprintf("#%s to #%s", o.name(from), o.name(to-1))
}
