package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
)

// Why NATS does not take a publication or does not make a stream. A program can tell these
// errors apart, and each says what a person can do.

var (
	// ErrFull is wrapped by the error of Publish if NATS had no space for the publication,
	// which was not stored. Either the disk is full, or a limit of the stream, the account or
	// the server is reached. ErrFull wraps live.ErrUnavailable, so a live.v1 client is told to
	// try again later. Publishing works again by itself when there is space.
	ErrFull error = &sentinel{"natsbroker: NATS has no space", broker.ErrUnavailable}

	// ErrNotOurs is wrapped by the error for a stream that has the configured name but another
	// owner: another program, another application, or this application with another
	// Options.Prefix. Nothing is changed in such a stream, and nothing is published to it.
	ErrNotOurs = errors.New("natsbroker: the stream is not ours")
)

var (
	errNoSpace          error = &sentinel{"natsbroker: the disk is full", ErrFull}
	errTooLittleStorage error = &sentinel{"natsbroker: NATS has less storage than the stream is to have", ErrFull}
	errNoJetStream      error = &sentinel{"natsbroker: NATS has no JetStream", broker.ErrUnavailable}
	errOverlap                = errors.New("natsbroker: another stream has the same subjects")
	errNotAccepted            = errors.New("natsbroker: NATS does not accept the stream")
)

// sentinel is an error that also is an error of another kind.
type sentinel struct {
	text string
	kind error
}

func (s *sentinel) Error() string { return s.text }
func (s *sentinel) Unwrap() error { return s.kind }

// explained is an error of NATS, with its kind and with advice.
type explained struct {
	kind   error
	advice string
	err    error
}

func (e *explained) Error() string {
	if e.advice == "" {
		return fmt.Sprintf("%v: %v", e.kind, e.err)
	}
	return fmt.Sprintf("%v: %s (%v)", e.kind, e.advice, e.err)
}

func (e *explained) Unwrap() []error { return []error{e.kind, e.err} }

// The codes of JetStream's errors that are explained, from nats-server's errors.json.
const (
	codeAccountFull      jetstream.ErrorCode = 10002
	codeNoPeers          jetstream.ErrorCode = 10005
	codeServerFull       jetstream.ErrorCode = 10023
	codeTooManyStreams   jetstream.ErrorCode = 10027
	codeNoMemory         jetstream.ErrorCode = 10028
	codeNoAccount        jetstream.ErrorCode = 10039
	codeNoStorage        jetstream.ErrorCode = 10047
	codeMessageTooLarge  jetstream.ErrorCode = 10054
	codeOtherStream      jetstream.ErrorCode = 10060
	codeOverlap          jetstream.ErrorCode = 10065
	codeNotClustered     jetstream.ErrorCode = 10074
	codeNotEnabled       jetstream.ErrorCode = 10076
	codeNotStored        jetstream.ErrorCode = 10077
	codeHeaderTooLarge   jetstream.ErrorCode = 10097
	codeSealed           jetstream.ErrorCode = 10109
	codeMaxBytesRequired jetstream.ErrorCode = 10113
	codeOffline          jetstream.ErrorCode = 10118
	codeNoLimits         jetstream.ErrorCode = 10120
	codeStreamTooLarge   jetstream.ErrorCode = 10122
	codeOfflineWhy       jetstream.ErrorCode = 10194
)

const (
	adviceDisk    = "free space on the disk of the NATS server, or keep less with MaxBytes and MaxAge"
	adviceServer  = "the streams together have reached the limit of the NATS server; free space on its disk, raise its limit, or keep less with MaxBytes and MaxAge"
	adviceAccount = "the streams together have reached the limit of the account; raise it, or keep less with MaxBytes and MaxAge"
	adviceSize    = "lower StreamConfig.MaxBytes, or raise the limit of the account and the NATS server"
	adviceDiscard = `if the stream is keyed, raise its MaxBytes or MaxMsgs, or remove keys; else somebody has set the stream's discard policy to "new"; set it to "old", or call EnsureStream`
	adviceEnable  = "enable JetStream on that NATS server, and for the account"
)

// explanations has the kind and the advice of each code that has only one meaning.
var explanations = map[jetstream.ErrorCode]explained{
	codeServerFull:      {kind: ErrFull, advice: adviceServer},
	codeAccountFull:     {kind: ErrFull, advice: adviceAccount},
	codeTooManyStreams:  {kind: ErrFull, advice: "the account may have no more streams; raise its limit, or delete one"},
	codeNoStorage:       {kind: errTooLittleStorage, advice: adviceSize},
	codeNoMemory:        {kind: errTooLittleStorage, advice: adviceSize},
	codeStreamTooLarge:  {kind: errTooLittleStorage, advice: adviceSize},
	codeNoAccount:       {kind: errNoJetStream, advice: adviceEnable},
	codeNotEnabled:      {kind: errNoJetStream, advice: adviceEnable},
	codeNoLimits:        {kind: errNoJetStream, advice: "give the account a JetStream limit for this number of replicas"},
	codeMessageTooLarge: {kind: broker.ErrTooLarge, advice: "it is over the stream's max_msg_size"},
	codeHeaderTooLarge:  {kind: broker.ErrTooLarge},
	codeOtherStream:     {kind: ErrNotOurs, advice: "another stream stores the subject; \"nats stream find\" shows which"},
	codeOverlap:         {kind: errOverlap, advice: "\"nats stream ls\" shows which; give each application its own Prefix, and each topic one stream"},
	codeNotClustered:    {kind: errNotAccepted, advice: "this NATS is a single server, so set StreamConfig.Replicas to 1"},
	codeMaxBytesRequired: {kind: errNotAccepted,
		advice: "the account wants a bound for each stream, so set StreamConfig.MaxBytes"},
	codeSealed:     {kind: errNotAccepted, advice: "the stream is sealed, which cannot be undone; delete it, or give StreamConfig another Name"},
	codeOffline:    {kind: broker.ErrUnavailable, advice: "the stream was made by a newer NATS server than the present one"},
	codeOfflineWhy: {kind: broker.ErrUnavailable},
}

// explain returns err with its kind and with advice; nil: it knows nothing of err.
func explain(err error) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return &explained{broker.ErrTooLarge, "it is over the max_payload of the NATS server", err}
	}
	if isNoSpace(err) {
		return &explained{errNoSpace, adviceDisk, err}
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return nil
	}
	if e, ok := explanations[api.ErrorCode]; ok {
		return &explained{e.kind, e.advice, err}
	}
	switch {
	case api.ErrorCode == codeNotStored:
		return explainNotStored(api, err)
	case api.ErrorCode == codeNoPeers && strings.Contains(api.Description, "insufficient storage"):
		return &explained{errTooLittleStorage, adviceSize, err}
	case api.Code == 429: // more requests wait than the server wants
		return &explained{broker.ErrUnavailable, "", err}
	}
	return nil
}

// explainNotStored explains an error whose code has several meanings. Its text tells them
// apart.
func explainNotStored(api *jetstream.APIError, err error) error {
	switch {
	case strings.Contains(api.Description, "maximum"): // of messages, of bytes, or of messages per subject
		return &explained{ErrFull, adviceDiscard, err}
	case strings.Contains(api.Description, "too large"):
		return &explained{broker.ErrTooLarge, "", err}
	}
	return nil
}

// isNoSpace reports whether an error says that a disk, a quota or a file is full. Most of these
// errors come as text from another process.
func isNoSpace(err error) bool {
	if err == nil {
		return false
	}
	text := err.Error()
	for _, full := range []string{
		"no space left on device", "disk quota exceeded", "file too large",
		"not enough space on the disk", // Windows
	} {
		if strings.Contains(text, full) {
			return true
		}
	}
	return false
}

// endsPublish reports whether Publish should give up after an error. A later call may succeed.
func endsPublish(err error) bool {
	for _, end := range []error{ErrFull, errNoJetStream, errDenied} {
		if errors.Is(err, end) {
			return true
		}
	}
	return !errors.Is(err, broker.ErrUnavailable)
}

// stillInProcess is the answer of a stream's leader to a second attempt to publish, while the
// first attempt waits for a majority.
const stillInProcess jetstream.ErrorCode = 10158

// unavailable marks each error which says that NATS or its majority cannot be reached, and
// explains each error of which it knows more.
func unavailable(err error) error {
	if known := new(*explained); errors.As(err, known) {
		return err
	}
	if e := explain(err); e != nil {
		return e
	}
	switch {
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse),
		errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionReconnecting),
		errors.Is(err, nats.ErrNoServers), errors.Is(err, nats.ErrStaleConnection),
		errors.Is(err, nats.ErrHeadersNotSupported), // until a server has said that it supports them
		errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	case errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", broker.ErrServerClosed, err)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.Code == 503 || api.ErrorCode == stillInProcess) {
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
	}
	return err
}
