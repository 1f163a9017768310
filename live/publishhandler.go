package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/livetopic/livetopic/live/broker"
)

// PublishHandlerOptions configures a PublishHandler. Auth must be set.
type PublishHandlerOptions struct {
	// Auth decides who may publish. It is called before the body is read. The value that it returns is
	// handed to OnPublish. Token returns the bearer token of a request. An error refuses the request
	// with 401, or with the status and text given to Refuse. The error's own text is logged, and not
	// sent. The context ends after Options.AuthTimeout. nil: nobody may publish.
	Auth func(ctx context.Context, r *http.Request) (any, error)

	// OnPublish decides about one publication. caller is what Auth returned. OnPublish may change p,
	// for example to write the author into the data. It may put the caller's name before the ID, but only
	// if there is an ID: publications with the same ID count as one. OnPublish is called for all
	// publications of a request before the first of them is made. nil: whoever Auth lets in may publish
	// everything.
	//
	// An error refuses the whole request with 403. The text of a *ClientError is sent, with 400, 429 or
	// 503 if its code is "bad_request", "rate_limited" or "unavailable". Refuse chooses any other
	// status. An error that wraps ErrUnavailable, or an error of a context, is answered with 503.
	OnPublish func(ctx context.Context, caller any, p *HTTPPublication) error

	// MaxBytes is the size in bytes of the largest body of a request. A larger body is refused with
	// 413. A body must arrive within half a minute, unless the http.Server has a ReadTimeout of its
	// own. 0: 1 MiB, the size of the largest message that NATS takes by default.
	MaxBytes int

	// MaxAtOnce bounds the requests whose bodies are read or published at the same time. Further
	// requests are refused with 429 and a Retry-After. A request that waits for the broker takes twice
	// its size of memory. 0: 64. Requests pile up only when the broker is slow or away. More requests
	// at once would not make it faster. Negative: no bound.
	MaxAtOnce int
}

// HTTPPublication is a publication that came to a PublishHandler.
type HTTPPublication struct {
	Topic  string          // to which it is published
	Data   json.RawMessage // one JSON value; nil if Remove is true
	ID     string          // see the option ID of Publish; "": none
	Key    string          // see the option Key of Publish; "": none
	Remove bool            // the key is removed; see Server.Remove
}

// maxPublications bounds the publications of one request, as maxOperations bounds the operations of
// one frame.
const maxPublications = 1000

const (
	// publishBodyTimeout is how long a body may take. It frees the connections of programs that stop
	// in the middle. A megabyte in half a minute is the speed of a bad mobile network.
	publishBodyTimeout = 30 * time.Second

	// publishRequestTimeout is how long the publications of one request may take together. A cluster
	// elects another leader in four to nine seconds. A disk that is written through for each
	// publication takes some seconds for the 1,000 that a request may have.
	publishRequestTimeout = 30 * time.Second
)

// PublishHandler returns a handler with which programs publish over HTTP, in whatever language they are
// written. The body of a POST is one JSON object, or an array of 1,000 objects at most:
//
//	{"topic":"orders","data":{"id":17},"id":"order-17-shipped"}
//
// topic and data are required. id, key and remove are the options ID and Key and the method Remove. A
// member that is null, other than data, is as if it were not there. The answer is 202 with the
// position of the publication, or an error that names the member that is wrong. If any publication of
// an array is invalid or not allowed, none is made. They are made in order up to the first that fails,
// and the answer tells which were made. A publication without an id has the header Idempotency-Key as
// its ID; in an array its index follows, after a slash.
//
// A browser may call the handler from the pages that may connect to Handler, and from no other page.
// The publications count as the application's own. So Options.OnPublish and TopicOptions.PublishRate do
// not apply to them. docs/publishing.md has all answers.
func (s *Server) PublishHandler(o PublishHandlerOptions) http.Handler {
	setDefault(&o.MaxBytes, 1<<20)
	h := &publishHandler{server: s, opts: o}
	if o.MaxAtOnce == 0 {
		o.MaxAtOnce = 64
	}
	if o.MaxAtOnce > 0 {
		h.places = make(chan struct{}, o.MaxAtOnce)
	}
	return h
}

type publishHandler struct {
	server *Server
	opts   PublishHandlerOptions
	places chan struct{} // holds one element for each request that is read or published; nil: no bound
}

// publishError says why a request, or one publication of it, failed.
type publishError struct {
	status  int
	Code    string `json:"code"`
	Index   *int   `json:"index,omitempty"`  // of the publication, in an array
	Member  string `json:"member,omitempty"` // of the publication, or the name of a header
	Message string `json:"message"`
}

func (e *publishError) Error() string { return e.Code + ": " + e.Message }

// at returns a copy of the error for the publication with an index.
func (e *publishError) at(index int) *publishError {
	indexed := *e
	indexed.Index = &index
	return &indexed
}

// publishResult says whether one publication was made.
type publishResult struct {
	At    string        `json:"at,omitempty"`    // its position; "": the topic keeps no history
	Error *publishError `json:"error,omitempty"` // why it was not made; nil: it was made
}

// publishAnswer is the body of an answer. The answer to an object has its result. The answer to an
// array has the results of all its publications, unless none was tried, and the first error.
type publishAnswer struct {
	publishResult
	Results []publishResult `json:"results,omitzero"`
}

var errNotTried = &publishError{Code: "not_tried", Message: "an earlier publication of the request failed"}

func (h *publishHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !hasReadTimeout(r) {
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(publishBodyTimeout)) // a writer without it has no connection that waits
	}
	answer := h.serve(w, r)
	status := http.StatusAccepted
	header := w.Header()
	if err := answer.Error; err != nil {
		status = err.status
		switch status {
		case http.StatusUnauthorized:
			header.Set("WWW-Authenticate", "Bearer")
		case http.StatusMethodNotAllowed:
			header.Set("Allow", http.MethodPost)
		case http.StatusUnsupportedMediaType:
			header.Set("Accept-Post", "application/json")
		case http.StatusTooManyRequests:
			header.Set("Retry-After", "1") // the requests before it take milliseconds
		case http.StatusServiceUnavailable:
			header.Set("Retry-After", retryAfter(errDraining))
		}
	}
	header.Set("Content-Type", "application/json")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer) // it fails only if the connection does
}

// hasReadTimeout reports whether the http.Server bounds the time that a request may take to arrive.
func hasReadTimeout(r *http.Request) bool {
	server, ok := r.Context().Value(http.ServerContextKey).(*http.Server)
	return ok && server.ReadTimeout > 0
}

// serve does what a request asks for, cheapest check first.
func (h *publishHandler) serve(w http.ResponseWriter, r *http.Request) publishAnswer {
	if err := h.admit(r); err != nil {
		return failed(err)
	}
	caller, err := h.authenticate(r)
	if err != nil {
		return failed(err)
	}
	if err := checkPublishType(r.Header); err != nil {
		return failed(err)
	}
	if h.places != nil {
		select {
		case h.places <- struct{}{}:
			defer func() { <-h.places }()
		default:
			h.server.logOfClient(slog.LevelWarn, "live: publishing program refused: MaxAtOnce reached", "remote", r.RemoteAddr)
			return failed(&publishError{status: http.StatusTooManyRequests, Code: "rate_limited", Message: "too many requests are published at once; try again later"})
		}
	}
	body, err := h.read(w, r)
	if err != nil {
		return failed(err)
	}
	all, many, err := decodePublications(body)
	if err == nil {
		err = nameAfter(r.Header.Get("Idempotency-Key"), all, many)
	}
	if err == nil {
		err = h.check(r, caller, all, many)
	}
	if err != nil {
		return failed(err)
	}
	results := h.publish(r, all)
	if !many {
		return publishAnswer{publishResult: results[0]}
	}
	answer := publishAnswer{Results: results}
	for i, result := range results {
		if result.Error != nil {
			answer.Error = result.Error.at(i)
			break
		}
	}
	return answer
}

func failed(err *publishError) publishAnswer {
	return publishAnswer{publishResult: publishResult{Error: err}}
}

// admit makes the checks that do not depend on the caller's identity.
func (h *publishHandler) admit(r *http.Request) *publishError {
	if r.Method != http.MethodPost {
		return &publishError{status: http.StatusMethodNotAllowed, Code: "bad_request", Message: "the method must be POST"}
	}
	if err := h.checkSite(r); err != nil {
		return err
	}
	if h.opts.Auth == nil {
		h.server.logOnce("live: a program asked to publish over HTTP; PublishHandlerOptions.Auth is nil, so all are refused")
		return &publishError{status: http.StatusForbidden, Code: "forbidden", Message: "nobody may publish: PublishHandlerOptions.Auth is nil"}
	}
	return nil
}

// checkSite refuses pages of other sites, which could publish with the cookies of the person who reads
// them. Browsers send an Origin with each POST, as they do with each handshake. A browser that leaves it
// out still says in Sec-Fetch-Site, which no page can set, whether the page is of another site.
func (h *publishHandler) checkSite(r *http.Request) *publishError {
	if err := h.server.checkOrigin(r); err != nil {
		return h.refusedBy(err)
	}
	if r.Header.Get("Origin") != "" {
		return nil
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none": // no browser, a page of this origin, or the person's own doing
		return nil
	}
	return &publishError{status: http.StatusForbidden, Code: "forbidden", Message: "a page of another site may not publish"}
}

// refusedBy returns what the caller is told of a refusal.
func (h *publishHandler) refusedBy(err error) *publishError {
	told := refusalOf(err)
	code := "forbidden"
	switch {
	case told.status == http.StatusUnauthorized:
		code = "unauthorized"
	case told.status == http.StatusTooManyRequests:
		code = "rate_limited"
	case told.status == http.StatusServiceUnavailable:
		code = "unavailable"
	case told.status >= 500:
		code = "internal"
	}
	return &publishError{status: told.status, Code: code, Message: told.text}
}

func (h *publishHandler) authenticate(r *http.Request) (caller any, refused *publishError) {
	ctx, cancel := context.WithTimeout(r.Context(), h.server.opts.AuthTimeout)
	defer cancel()
	err := h.call("PublishHandlerOptions.Auth", r, func() (err error) {
		caller, err = h.opts.Auth(ctx, r)
		return err
	})
	if err == nil {
		return caller, nil
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("%w (%w)", err, errAuthSlow)
	}
	h.server.logOfClient(slog.LevelInfo, "live: publishing program refused by Auth", "remote", r.RemoteAddr, "err", err)
	return nil, h.refusedBy(err)
}

// call calls a function of the options. A panic in it is logged, and becomes an error.
func (h *publishHandler) call(name string, r *http.Request, f func() error) error {
	err := fmt.Errorf("%w: %s (%w)", ErrPanic, name, errInternal)
	h.server.callSafely(name, "remote", r.RemoteAddr, func() { err = f() })
	return err
}

// checkPublishType refuses everything but uncompressed JSON. That keeps out pages of other sites too: a
// browser sends JSON to another site only if that site allows it.
func checkPublishType(h http.Header) *publishError {
	refused := &publishError{status: http.StatusUnsupportedMediaType, Code: "bad_request"}
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	charset, hasCharset := params["charset"]
	switch coding := h.Get("Content-Encoding"); {
	case err != nil, kind != "application/json":
		refused.Member, refused.Message = "Content-Type", "the Content-Type must be application/json"
	case hasCharset && charset != "utf-8" && charset != "UTF-8":
		refused.Member, refused.Message = "Content-Type", "the charset must be utf-8"
	case coding != "" && coding != "identity":
		refused.Member, refused.Message = "Content-Encoding", "the body must not be compressed"
	default:
		return nil
	}
	return refused
}

// read reads the body.
func (h *publishHandler) read(w http.ResponseWriter, r *http.Request) ([]byte, *publishError) {
	tooLarge := &publishError{status: http.StatusRequestEntityTooLarge, Code: "too_big",
		Message: "the body may have " + strconv.Itoa(h.opts.MaxBytes) + " bytes"}
	if r.ContentLength > int64(h.opts.MaxBytes) {
		return nil, tooLarge
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(h.opts.MaxBytes)))
	switch {
	case err == nil:
		// If the deadline stayed, net/http would end the request's context when it comes.
		http.NewResponseController(w).SetReadDeadline(time.Time{})
		return body, nil
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &publishError{status: http.StatusRequestTimeout, Code: "bad_request", Message: "the body took too long to arrive"}
	}
	return nil, &publishError{status: http.StatusBadRequest, Code: "bad_request", Message: "the body did not arrive whole"}
}

// nameAfter gives an ID to each publication that has none. The ID is made of the header Idempotency-Key.
func nameAfter(key string, all []HTTPPublication, many bool) *publishError {
	if key == "" {
		return nil
	}
	if longest := maxPublicationID - len("/999"); len(key) > longest {
		return &publishError{status: http.StatusBadRequest, Code: "bad_request", Member: "Idempotency-Key",
			Message: fmt.Sprintf("the Idempotency-Key has %d bytes, and may have %d", len(key), longest)}
	}
	for i := range all {
		switch {
		case all[i].ID != "":
		case many:
			all[i].ID = key + "/" + strconv.Itoa(i)
		default:
			all[i].ID = key
		}
	}
	return nil
}

// check checks all publications, and asks the application whether they may be made. It is called before
// the first of them is made, so an invalid request makes none of them.
func (h *publishHandler) check(r *http.Request, caller any, all []HTTPPublication, many bool) *publishError {
	for _, checkOne := range []func(*HTTPPublication) *publishError{
		func(p *HTTPPublication) *publishError { return h.server.checkHTTPPublication(p) },
		func(p *HTTPPublication) *publishError { return h.ask(r, caller, p) },
	} {
		for i := range all {
			if err := checkOne(&all[i]); err != nil {
				if many {
					err = err.at(i)
				}
				return err
			}
		}
	}
	return nil
}

// checkHTTPPublication returns why Publish would refuse a publication; nil: it would not.
func (s *Server) checkHTTPPublication(p *HTTPPublication) *publishError {
	wrong := func(code, member string, err error) *publishError {
		return &publishError{status: http.StatusBadRequest, Code: code, Member: member, Message: err.Error()}
	}
	if err := s.checkTopic(p.Topic); err != nil {
		return wrong("invalid_topic", "topic", err)
	}
	if err := broker.CheckData(p.Data); err != nil {
		return wrong("bad_request", "data", err)
	}
	if len(p.ID) > maxPublicationID {
		return wrong("bad_request", "id", fmt.Errorf("the id has %d bytes, and may have %d", len(p.ID), maxPublicationID))
	}
	o := s.publishOptions(p.Topic, p.options())
	if err := checkKey(&o); err != nil {
		member := "key"
		if p.Remove && p.Key != "" && !o.Keyed {
			member = "remove"
		}
		return wrong("bad_request", member, err)
	}
	return nil
}

// options returns the options of Publish.
func (p *HTTPPublication) options() []PublishOption {
	return []PublishOption{func(o *publishing) { o.ID, o.Key, o.Remove = p.ID, p.Key, p.Remove }}
}

// ask calls OnPublish, and then checks the publication again, because OnPublish may have changed it.
func (h *publishHandler) ask(r *http.Request, caller any, p *HTTPPublication) *publishError {
	if h.opts.OnPublish == nil {
		return nil
	}
	err := h.call("PublishHandlerOptions.OnPublish", r, func() error { return h.opts.OnPublish(r.Context(), caller, p) })
	if err != nil {
		return h.notAllowed(err)
	}
	if err := h.server.checkHTTPPublication(p); err != nil {
		h.server.logOfClient(slog.LevelWarn, "live: PublishHandlerOptions.OnPublish made a publication that cannot be published", "topic", p.Topic, "err", err)
		return h.refusedBy(errInternal)
	}
	return nil
}

// notAllowed returns what the caller is told of an error of OnPublish.
func (h *publishHandler) notAllowed(err error) *publishError {
	var own *ClientError
	var told *refusal
	switch {
	case errors.As(err, &own):
		status := http.StatusForbidden
		switch own.Code {
		case errBadRequest.Code:
			status = http.StatusBadRequest
		case errRateLimited.Code:
			status = http.StatusTooManyRequests
		case errUnavailable.Code:
			status = http.StatusServiceUnavailable
		}
		return &publishError{status: status, Code: own.Code, Message: own.Message}
	case errors.As(err, &told):
		return h.refusedBy(told)
	case isTemporary(err):
		return &publishError{status: http.StatusServiceUnavailable, Code: errUnavailable.Code, Message: errUnavailable.Message}
	}
	return &publishError{status: http.StatusForbidden, Code: errForbidden.Code, Message: errForbidden.Message}
}

// publish makes the publications in order, up to the first that fails. If later ones were made too, and
// the program then sent the request again, the failed publication would come after them.
func (h *publishHandler) publish(r *http.Request, all []HTTPPublication) []publishResult {
	ctx, cancel := context.WithTimeout(r.Context(), publishRequestTimeout)
	defer cancel()
	results := make([]publishResult, len(all))
	for i, p := range all {
		at, err := h.server.PublishContext(ctx, p.Topic, p.Data, p.options()...)
		if err == nil {
			results[i].At = at.String()
			continue
		}
		results[i].Error = h.notMade(err)
		for j := i + 1; j < len(all); j++ {
			results[j].Error = errNotTried
		}
		break
	}
	return results
}

// notMade returns what the caller is told of an error of Publish.
func (h *publishHandler) notMade(err error) *publishError {
	switch {
	case errors.Is(err, ErrInvalidTopic):
		return &publishError{status: http.StatusBadRequest, Code: "invalid_topic", Member: "topic", Message: "the broker cannot carry a topic of that name"}
	case errors.Is(err, ErrTooLarge):
		return &publishError{status: http.StatusRequestEntityTooLarge, Code: "too_big", Member: "data", Message: "the publication is too large for the broker"}
	case errors.Is(err, ErrTooManyKeys):
		return &publishError{status: http.StatusConflict, Code: "too_many_keys", Member: "key", Message: "the topic has as many keys as it may have"}
	case errors.Is(err, ErrServerClosed):
		return &publishError{status: http.StatusServiceUnavailable, Code: "unavailable", Message: "the server is shutting down, and has not made the publication"}
	}
	h.server.logOfClient(slog.LevelWarn, "live: publication over HTTP failed", "err", err)
	if isTemporary(err) {
		return &publishError{status: http.StatusServiceUnavailable, Code: "unavailable",
			Message: "the broker has not confirmed the publication, which may or may not have been made: with an id it is safe to send it again"}
	}
	return &publishError{status: http.StatusInternalServerError, Code: "internal", Message: "internal error: the publication may or may not have been made"}
}
