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

// getRequest asks JetStream for messages.
type getRequest struct {
	Sequence uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`     // messages at most
	MaxBytes int    `json:"max_bytes,omitempty"` // the message that reaches it is the last
}

// message is one of a stream.
type message struct {
	Sequence uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	data     []byte
	except   string
	size     int // of all that is stored, or a little more, in bytes
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
// a batch from a disk that is busy, perhaps a second.
const answerTimeout = 2 * time.Second

// insist asks again until ctx ends: a question that was on its way when a connection broke
// is never answered.
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

// total is how many publications the topic has from where the batch begins.
func (b batch) total() int64 { return int64(len(b.messages)) + int64(b.pending) }

// pageBytes is how many bytes of messages a batch has: JetStream ends it with the message
// that reaches so many. A client's history goes out in parts of some tens of kilobytes, so
// a batch serves several of them. A hundred reads at once hold 25 MB, and one more publication
// each.
const pageBytes = 256 << 10

// pageMessages is how many messages a batch has at most, so that small ones do not take many
// times pageBytes in memory. It is twice what a server asks for at once.
const pageMessages = 2048

// batch reads a topic from a sequence on: count messages at most. The message that brings them
// to so many bytes is the last. If there is a message, the batch has one at least.
func (st *stream) batch(ctx context.Context, subject string, from uint64, count, bytes int) (batch, error) {
	if from+scanSpan >= st.newestSeen().sequence {
		return st.request(ctx, subject, from, count, bytes)
	}
	return st.scan(ctx, subject, from, min(count, pageMessages), bytes)
}

// request is batch in one request.
func (st *stream) request(ctx context.Context, subject string, from uint64, count, bytes int) (batch, error) {
	body, err := json.Marshal(getRequest{Sequence: from, NextFor: subject, Batch: min(count, pageMessages), MaxBytes: bytes})
	if err != nil {
		return batch{}, err
	}
	return insist(ctx, func(ctx context.Context) (batch, error) {
		return st.askForBatch(ctx, subject, body)
	})
}

func (st *stream) askForBatch(ctx context.Context, subject string, body []byte) (batch, error) {
	nc := st.broker.nc
	inbox := nc.NewInbox() // with the prefix that the account may be bound to
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
			size := len(subject) + m.Size()
			got.messages = append(got.messages, message{sequence, at, m.Data, exceptOf(m.Header), size})
		case "204": // the end
			if len(got.messages) > 0 {
				got.pending, _ = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			}
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
