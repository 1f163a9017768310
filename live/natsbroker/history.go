package natsbroker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live"
)

// Keeps implements live.Recoverer.
func (b *Broker) Keeps(topic string) bool {
	_, st := b.streamOf(topic)
	return st != nil
}

func (b *Broker) streamOf(topic string) (tokens string, st *stream) {
	tokens, err := encode(topic)
	if err != nil {
		return "", nil
	}
	return tokens, b.streams.of(topic, tokens)
}

// stateAge is how old a stream's state may be that Last is based on: one
// question a second for each stream suffices, however many topics are checked.
const stateAge = time.Second

// Last implements live.Recoverer. The stream's leader answers: a copy may lag, and a
// position that is too old would make a hole that nobody notices.
func (b *Broker) Last(ctx context.Context, topic string) (live.Position, error) {
	if b.closed.Load() {
		return live.Position{}, live.ErrServerClosed
	}
	tokens, st := b.streamOf(topic)
	if st == nil {
		return live.Position{}, nil
	}
	in := b.hub.find(b.deliverySubject(tokens))
	at, err := st.agree(ctx, tokens, in)
	if gone(err) { // it may have been deleted
		if err = st.remake(ctx); err == nil {
			at, err = st.agree(ctx, tokens, in)
		}
	}
	if err != nil {
		return live.Position{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	return live.Position{Epoch: at.epoch, Offset: at.offset}, nil
}

// agree returns the topic's newest offset; of a topic that is subscribed here it also
// takes note that nothing newer is before the end of the stream.
func (st *stream) agree(ctx context.Context, tokens string, in *interest) (agreement, error) {
	if in == nil {
		return st.lastOf(ctx, tokens, nil)
	}
	before := in.agreed.Load()
	known := in.seen.Load() // now, before the leader is asked
	if before != nil {
		known = max(known, before.offset)
	}
	isBack := func(at agreement) bool {
		return before != nil && before.epoch == at.epoch && at.offset < known
	}
	at, err := st.lastOf(ctx, tokens, before)
	if err == nil && isBack(at) {
		st.doubt() // purged, or another stream of the same name
		at, err = st.lastOf(ctx, tokens, nil)
	}
	if err != nil {
		return agreement{}, err
	}
	if !isBack(at) {
		in.back.Store(0)
	} else if !in.lastingBack() {
		return agreement{}, fmt.Errorf("%w: it has less of the topic than before", live.ErrUnavailable)
	}
	if before != nil && (before.epoch != at.epoch || isBack(at)) {
		in.seen.Store(at.offset)
	}
	in.agreed.Store(&at)
	return at, nil
}

// lastingBack reports whether answers that lie before what was known are to be believed:
// when they have come for longer than a leader that was cut off, and is back, can hold
// itself for one.
func (in *interest) lastingBack() bool {
	now := time.Now().UnixNano()
	if in.back.CompareAndSwap(0, now) {
		return false
	}
	return now-in.back.Load() >= int64(leaseTime)
}

// lastOf returns the newest offset of a topic, and a sequence up to which it has
// nothing newer.
func (st *stream) lastOf(ctx context.Context, tokens string, before *agreement) (agreement, error) {
	// The state is asked for before the topic: what it knows, the answer for the
	// topic knows too.
	state, err := st.since(ctx, time.Now().Add(-stateAge))
	if err != nil {
		return agreement{}, err
	}
	ask := getRequest{LastFor: st.subject(tokens)}
	m, err := st.leaderGet(ctx, ask)
	if err != nil {
		return agreement{}, err
	}
	if m != nil {
		return st.agreed(agreement{state.epoch, m.Sequence, max(state.last, m.Sequence)}), nil
	}
	// Nothing is kept of the topic. Its position is the stream's, which must be of now:
	// an older one may lie before what has been delivered.
	if state, err = st.since(ctx, time.Now()); err != nil {
		return agreement{}, err
	}
	if m, err = st.leaderGet(ctx, ask); err != nil {
		return agreement{}, err
	}
	if m != nil {
		return st.agreed(agreement{state.epoch, m.Sequence, max(state.last, m.Sequence)}), nil
	}
	at := agreement{state.epoch, state.last, state.last}
	if before != nil && before.epoch == state.epoch {
		// Or where it was, if nothing can have come and been dropped since.
		now, err := st.since(ctx, time.Now())
		if err != nil {
			return agreement{}, err
		}
		if now.epoch == before.epoch && now.first <= before.sequence+1 {
			at.offset = before.offset
		}
	}
	return st.agreed(at), nil
}

func (st *stream) agreed(at agreement) agreement {
	st.saw(at.sequence)
	return at
}

// Read implements live.Recoverer. Any copy of the stream answers.
func (b *Broker) Read(ctx context.Context, topic string, after, upto uint64, limit int) (live.Page, error) {
	if b.closed.Load() {
		return live.Page{}, live.ErrServerClosed
	}
	tokens, st := b.streamOf(topic)
	if st == nil {
		return live.Page{}, nil
	}
	page, err := st.read(ctx, topic, tokens, after, upto, limit)
	if err != nil {
		return live.Page{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	return page, nil
}

func (st *stream) read(ctx context.Context, topic, tokens string, after, upto uint64, limit int) (live.Page, error) {
	subject := st.subject(tokens)
	// One more than asked for, to see whether after itself is still there: then nothing
	// that came after it has been dropped, since streams drop from their old end.
	got, err := st.batch(ctx, subject, max(after, 1), limit+1)
	if err != nil {
		return live.Page{}, err
	}
	page := live.Page{Upto: after}
	var exists, full bool
	for _, m := range got.messages {
		if m.Sequence == after {
			exists = true
			continue
		}
		if m.Sequence > upto {
			page.Upto = upto
			break
		}
		if len(page.Publications) == limit {
			full = true
			break
		}
		page.Upto = m.Sequence
		page.Publications = appendPublication(page.Publications, topic, m)
	}
	if !full && page.Upto < upto {
		if page.Upto, err = st.reach(ctx, subject, page.Upto, upto); err != nil {
			return live.Page{}, err
		}
	}
	// After the batch, so that it tells what had been dropped before.
	state, err := st.since(ctx, time.Now())
	if err != nil {
		return live.Page{}, err
	}
	page.Epoch = state.epoch
	page.Complete = exists || st.allKept(tokens, state, after, got)
	setEpoch(&page)
	return page, nil
}

// reach returns how far a page goes whose copy ended at an offset: to upto, if the
// leader has nothing in between.
func (st *stream) reach(ctx context.Context, subject string, end, upto uint64) (uint64, error) {
	next, err := st.leaderGet(ctx, getRequest{Sequence: end + 1, NextFor: subject})
	if err != nil {
		return 0, err
	}
	if next == nil || next.Sequence > upto {
		return upto, nil
	}
	return end, nil
}

// allKept reports whether all publications of a topic after an offset are kept, though
// there is none at the offset.
func (st *stream) allKept(tokens string, state streamState, after uint64, got batch) bool {
	from := after
	if in := st.broker.hub.find(st.broker.deliverySubject(tokens)); in != nil {
		if at := in.agreed.Load(); at != nil && at.epoch == state.epoch && after >= at.offset {
			from = max(after, at.sequence)
		}
	}
	if state.first > from+1 {
		return false // what was dropped at the stream's old end may have been of this topic
	}
	// A topic that is not full has dropped nothing.
	return st.config.MaxMsgsPerTopic == 0 || got.all() < st.config.MaxMsgsPerTopic
}

// Tail implements live.Recoverer.
func (b *Broker) Tail(ctx context.Context, topic string, limit int) (live.Page, error) {
	if b.closed.Load() {
		return live.Page{}, live.ErrServerClosed
	}
	tokens, st := b.streamOf(topic)
	if st == nil || limit <= 0 {
		return live.Page{}, nil
	}
	select {
	case b.cold <- struct{}{}:
		defer func() { <-b.cold }()
	case <-ctx.Done():
		return live.Page{}, ctx.Err()
	}
	page, err := st.tail(ctx, topic, tokens, limit)
	if err != nil {
		return live.Page{}, fmt.Errorf("natsbroker: stream %s: %w", st.config.Name, unavailable(err))
	}
	return page, nil
}

func (st *stream) tail(ctx context.Context, topic, tokens string, limit int) (live.Page, error) {
	newest, err := st.lastOf(ctx, tokens, nil)
	if err != nil {
		return live.Page{}, err
	}
	from, err := st.startOfTail(ctx, tokens, newest.sequence, limit)
	if err != nil {
		return live.Page{}, err
	}
	subject := st.subject(tokens)
	var kept []message
	for reads := 0; ; reads++ {
		got, err := st.batch(ctx, subject, from, tailBatch)
		if err != nil {
			return live.Page{}, err
		}
		kept = append(kept, got.messages...)
		kept = kept[max(len(kept)-limit, 0):]
		if got.pending == 0 {
			break
		}
		from = got.messages[len(got.messages)-1].Sequence + 1
	}
	page := live.Page{Epoch: newest.epoch, Complete: true}
	for _, m := range kept {
		page.Publications = appendPublication(page.Publications, topic, m)
		page.Upto = m.Sequence
	}
	if page.Upto < newest.offset {
		if page.Upto, err = st.reach(ctx, subject, page.Upto, newest.offset); err != nil {
			return live.Page{}, err
		}
	}
	setEpoch(&page)
	return page, nil
}

// tailBatch is how many publications are read at once from the end of a topic.
const tailBatch = 1024

// startOfTail returns a sequence from which a topic has at least limit publications,
// and not many more: JetStream reads forwards only. Where few topics are busy one
// guess suffices; three more correct it where they are not.
func (st *stream) startOfTail(ctx context.Context, tokens string, last uint64, limit int) (uint64, error) {
	subject := st.subject(tokens)
	state, err := st.since(ctx, time.Now().Add(-stateAge))
	if err != nil {
		return 0, err
	}
	first := max(state.first, 1)
	oldest, err := st.batch(ctx, subject, first, 1)
	if err != nil || len(oldest.messages) == 0 {
		return first, err
	}
	first = oldest.messages[0].Sequence
	all := oldest.all()
	if all <= int64(limit) {
		return first, nil
	}
	want := float64(limit) * 1.25
	low, high, inLow, inHigh := first, last+1, float64(all), 0.0
	for range 4 {
		// As if the topic were spread evenly between what is known.
		share := (inLow - want) / (inLow - inHigh)
		guess := low + uint64(share*float64(high-low))
		if guess <= low || guess >= high {
			break
		}
		probe, err := st.batch(ctx, subject, guess, 1)
		if err != nil {
			return 0, err
		}
		switch n := probe.all(); {
		case n < int64(limit):
			high, inHigh = guess, float64(n)
		case n > 2*int64(limit):
			low, inLow = guess, float64(n)
		default:
			return guess, nil
		}
	}
	return low, nil
}

// getRequest asks JetStream for messages.
type getRequest struct {
	Sequence uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`
}

// message is one of a stream.
type message struct {
	Sequence uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	data     []byte
	except   string
}

// leaderGet has the stream's leader look up a message; nil: there is none.
func (st *stream) leaderGet(ctx context.Context, ask getRequest) (*message, error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	reply, err := insist(ctx, func(ctx context.Context) (*nats.Msg, error) {
		return st.broker.nc.RequestWithContext(ctx, st.broker.api+"STREAM.MSG.GET."+st.config.Name, body)
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Message *message            `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, fmt.Errorf("unclear answer: %w", err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		if answer.Error.ErrorCode == jetstream.JSErrCodeStreamNotFound {
			return nil, jetstream.ErrStreamNotFound
		}
		return nil, answer.Error
	}
	return answer.Message, nil
}

// answerTimeout is how long one question may wait for its answer. Those take milliseconds;
// a thousand publications from a disk that is busy, perhaps a second.
const answerTimeout = 2 * time.Second

// insist asks again until ctx ends: a question that was on its way when a line broke is
// never answered.
func insist[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, answerTimeout)
		answer, err := ask(attempt)
		unanswered := err != nil && attempt.Err() != nil
		cancel()
		if !unanswered || ctx.Err() != nil {
			return answer, err
		}
	}
}

// batch is a part of a topic, as a copy of its stream has it.
type batch struct {
	messages []message
	pending  uint64 // how many more there are after these
}

// all is how many publications the topic has from where the batch begins.
func (b batch) all() int64 { return int64(len(b.messages)) + int64(b.pending) }

// batch reads a topic from a sequence on, count publications at most.
func (st *stream) batch(ctx context.Context, subject string, from uint64, count int) (batch, error) {
	var all batch
	for {
		part, err := insist(ctx, func(ctx context.Context) (batch, error) {
			return st.oneBatch(ctx, subject, from, count-len(all.messages))
		})
		if err != nil {
			return batch{}, err
		}
		all.messages = append(all.messages, part.messages...)
		all.pending = part.pending
		if len(part.messages) == 0 || part.pending == 0 || len(all.messages) >= count {
			return all, nil
		}
		from = part.messages[len(part.messages)-1].Sequence + 1 // it was cut for its size in bytes
	}
}

func (st *stream) oneBatch(ctx context.Context, subject string, from uint64, count int) (batch, error) {
	body, err := json.Marshal(getRequest{Sequence: from, NextFor: subject, Batch: count})
	if err != nil {
		return batch{}, err
	}
	inbox := nats.NewInbox()
	nc := st.broker.nc
	replies, err := nc.SubscribeSync(inbox)
	if err != nil {
		return batch{}, err
	}
	defer replies.Unsubscribe()
	if err := nc.PublishRequest(st.broker.api+"DIRECT.GET."+st.config.Name, inbox, body); err != nil {
		return batch{}, err
	}
	var got batch
	for {
		m, err := replies.NextMsgWithContext(ctx)
		if err != nil {
			return batch{}, err
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			sequence, err := strconv.ParseUint(last(m.Header, headerSequence), 10, 64)
			if err != nil {
				return batch{}, fmt.Errorf("unclear answer: %w", err)
			}
			at, _ := time.Parse(time.RFC3339Nano, last(m.Header, headerTime))
			got.messages = append(got.messages, message{sequence, at, m.Data, exceptOf(m.Header)})
		case "204": // the end
			got.pending, _ = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			return got, nil
		case "404":
			return batch{}, nil
		case "503":
			return batch{}, nats.ErrNoResponders
		default:
			return batch{}, errors.New(cmp.Or(m.Header.Get("Description"), "status "+status))
		}
	}
}

// appendPublication adds a message to a page, unless somebody has stored what is none.
func appendPublication(page []*live.Publication, topic string, m message) []*live.Publication {
	if live.CheckData(m.data) != nil {
		return page
	}
	p := &live.Publication{Topic: topic, Data: m.data, Time: m.Time, Except: m.except}
	p.Offset = m.Sequence
	if len(page) > 0 {
		p.Prev = page[len(page)-1].Offset
	}
	return append(page, p)
}

func setEpoch(page *live.Page) {
	for _, p := range page.Publications {
		p.Epoch = page.Epoch
	}
}
