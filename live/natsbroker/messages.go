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

	"github.com/livetopic/livetopic/live/broker"
)

// getRequest is a request to JetStream for messages. Its fields are those of NATS.
type getRequest struct {
	Sequence uint64 `json:"seq,omitempty"`
	LastFor  string `json:"last_by_subj,omitempty"`
	NextFor  string `json:"next_by_subj,omitempty"`
	Batch    int    `json:"batch,omitempty"`     // the most messages
	MaxBytes int    `json:"max_bytes,omitempty"` // the message that reaches this size is the last
}

// message is a message of a stream.
type message struct {
	Sequence uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Headers  []byte    `json:"hdrs"` // as they are on the wire; of a message of a batch: nil
	data     []byte
	except   string
	trace    string // the traceparent
	subject  string
	removed  bool // it says that its key was removed
	size     int  // bytes that the message takes in the stream, or a little more
}

// leaderGet asks the leader of the stream for a message; nil: there is no such message.
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
		return nil, fmt.Errorf("invalid answer: %w", err)
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

// answerTimeout is how long one request waits for its answer. Most answers take milliseconds. A
// batch from a busy disk may take a second.
const answerTimeout = 2 * time.Second

// insist asks again until ctx ends: a request that was in transit when the connection broke
// never gets an answer.
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
	pending  uint64 // the number of messages that follow
}

// total is the number of messages that the topic has from the start of the batch on.
func (b batch) total() int64 { return int64(len(b.messages)) + int64(b.pending) }

// pageBytes is the size at which JetStream ends a batch; the message that reaches it is the
// last. A client gets its history in parts of some tens of kilobytes, so a batch serves several
// parts. A hundred reads at the same time hold 25 MB, and one more publication each.
const pageBytes = 256 << 10

// pageMessages is the most messages in a batch. It bounds the memory of a batch of small
// messages, which need many times their size. It is twice what a server asks for at once.
const pageMessages = 2048

// batch reads messages of a topic from a sequence on, count at most. The message that brings
// the batch to the given number of bytes is the last. If a message exists, the batch has at
// least one.
func (st *stream) batch(ctx context.Context, subject string, from uint64, count, bytes int) (batch, error) {
	if from+scanSpan >= st.newestSeen().sequence {
		return st.request(ctx, subject, from, count, bytes)
	}
	return st.scan(ctx, subject, from, min(count, pageMessages), bytes)
}

// request reads a batch in one request.
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
	inbox := nc.NewInbox() // has the prefix that the account may demand
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
				return batch{}, fmt.Errorf("invalid answer: %w", err)
			}
			at, _ := time.Parse(time.RFC3339Nano, last(m.Header, headerTime))
			size := len(subject) + m.Size()
			got.messages = append(got.messages, message{
				Sequence: sequence, Time: at, data: m.Data, except: exceptOf(m.Header), trace: last(m.Header, headerTrace), size: size,
				subject: last(m.Header, headerSubject), removed: isRemoval(m.Header),
			})
		case "204": // the end of the batch
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

// appendPublication adds a message to a page, unless it is no publication. A stream that was keyed, or
// that an operator has changed, may have markers of plain topics.
func appendPublication(page []*broker.Publication, topic string, m message) []*broker.Publication {
	key, keyed := keyOf(m.subject)
	if broker.CheckData(m.data) != nil || m.removed && !keyed {
		return page
	}
	p := &broker.Publication{Topic: topic, Data: m.data, Time: m.Time, Except: m.except, TraceParent: m.trace}
	p.Offset = m.Sequence
	if keyed {
		p.Key, p.Removed = key, m.removed
	} else if len(page) > 0 {
		p.Prev = page[len(page)-1].Offset
	}
	return append(page, p)
}

func setEpoch(page *broker.Page) {
	for _, p := range page.Publications {
		p.Epoch = page.Epoch
	}
}
