package natsbroker

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
)

// What a connection and a NATS of somebody else may have that the broker cannot do with:
// options, permissions, limits.

// errConnect is wrapped by the error for options of Connect or Conn.
var errConnect = errors.New("natsbroker: a connection that cannot be used")

// errDenied is wrapped by the error for a subject that NATS does not permit.
var errDenied error = &sentinel{"natsbroker: NATS does not permit a subject", broker.ErrUnavailable}

// checkConnect is the last of the options of a connection to Servers: it sees what those of
// the application have set.
func (b *Broker) checkConnect(o *nats.Options) error {
	switch {
	case o.NoEcho:
		return fmt.Errorf("%w: Options.Connect has nats.NoEcho, so this server would not hear what it publishes; leave it out", errConnect)
	case !o.AllowReconnect:
		return fmt.Errorf("%w: Options.Connect has nats.NoReconnect, so the broker would end with its first connection; leave it out", errConnect)
	case o.MaxReconnect >= 0:
		return fmt.Errorf("%w: Options.Connect has nats.MaxReconnects(%d), after which the broker would be closed for good; leave it out", errConnect, o.MaxReconnect)
	}
	b.errors = o.AsyncErrorCB
	o.AsyncErrorCB = b.connectionError
	return nil
}

// checkConn returns an error for a connection of the application that cannot be used.
func checkConn(nc *nats.Conn) error {
	switch {
	case nc.Opts.NoEcho:
		return fmt.Errorf("%w: Options.Conn was made with nats.NoEcho, so this server would not hear what it publishes; make one without it", errConnect)
	case nc.IsClosed() || nc.IsDraining():
		return fmt.Errorf("%w: Options.Conn is closed", errConnect)
	}
	return nil
}

// away returns why there is no connection; nil: there is one. What is published without a
// connection would wait in a buffer, and Publish must not say that it was sent.
func (b *Broker) away() error {
	if b.nc.IsConnected() {
		return nil
	}
	err := b.nc.LastError()
	switch {
	case b.nc.IsClosed() && err != nil:
		return fmt.Errorf("%w: the connection is closed for good, so this broker must be made anew: %w", broker.ErrUnavailable, err)
	case b.nc.IsClosed():
		return fmt.Errorf("%w: the connection is closed for good, so this broker must be made anew", broker.ErrUnavailable)
	case err == nil:
		err = nats.ErrDisconnected
	}
	return fmt.Errorf("%w: %w", broker.ErrUnavailable, err)
}

// denials are the subjects that NATS does not permit. It says so after the call
// that used them.
type denials struct {
	any atomic.Bool // there are some

	mu       sync.Mutex // guards subjects
	subjects map[string]denial
}

type denial struct {
	subscribing bool
	at          time.Time
	err         error
}

const (
	// deniedFor is how long Ready says no after a subject was denied.
	deniedFor = time.Minute

	// deniedAgain is how long a publication to a denied subject fails at once. Then NATS is
	// asked again.
	deniedAgain = 10 * time.Second

	// maxDenials bounds how many subjects are remembered. More than that are told by a few.
	maxDenials = 1000
)

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"\s]+)"`)

// note takes note of a permissions violation, and reports whether it was one of ours.
func (d *denials) note(b *Broker, err error) bool {
	found := violation.FindStringSubmatch(err.Error())
	if found == nil || !b.uses(found[2]) {
		return false
	}
	subscribing, subject := strings.EqualFold(found[1], "subscription"), found[2]
	what := "publish to"
	if subscribing {
		what = "subscribe to"
	}
	pattern := b.patternOf(subject)
	e := &explained{errDenied, fmt.Sprintf("permit this user to %s %s", what, pattern), err}
	d.mu.Lock()
	if d.subjects == nil || len(d.subjects) >= maxDenials {
		d.subjects = make(map[string]denial)
	}
	d.subjects[subject] = denial{subscribing, time.Now(), e}
	d.any.Store(true)
	d.mu.Unlock()
	if b.says.due("denied " + what + pattern) {
		b.logger.Warn("natsbroker: NATS does not permit a subject", "subject", subject, "err", e)
	}
	return true
}

// uses reports whether a subject may be one of the broker's.
func (b *Broker) uses(subject string) bool {
	for _, head := range []string{b.opts.Prefix + ".", b.api, b.inboxes()} {
		if strings.HasPrefix(subject, head) {
			return true
		}
	}
	return false
}

// inboxes is what subjects for answers begin with.
func (b *Broker) inboxes() string {
	if prefix := b.nc.Opts.InboxPrefix; prefix != "" {
		return prefix + "."
	}
	return nats.InboxPrefix
}

// patternOf returns what covers a subject and its like: live.d.> for live.d.chat.1.
func (b *Broker) patternOf(subject string) string {
	switch parts := strings.SplitN(subject, ".", 3); {
	case strings.HasPrefix(subject, b.inboxes()):
		return b.inboxes() + ">"
	case strings.HasPrefix(subject, b.api):
		return b.api + ">"
	case len(parts) == 3:
		return parts[0] + "." + parts[1] + ".>"
	}
	return subject
}

// publishing returns why a publication to a subject would be dropped.
func (d *denials) publishing(subject string) error {
	if !d.any.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.subjects[subject]; ok && !n.subscribing && time.Since(n.at) < deniedAgain {
		return n.err
	}
	return nil
}

// current returns what NATS does not permit of what is used now.
func (d *denials) current(b *Broker) error {
	if !d.any.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for subject, n := range d.subjects {
		in := b.hub.find(subject)
		switch {
		case n.subscribing && (in != nil && in.wanted.Load() || strings.HasPrefix(subject, b.busSubject(""))):
			return n.err // as long as nobody connects anew
		case time.Since(n.at) < deniedFor:
			return n.err
		}
	}
	return nil
}

// forget is for the end of a connection: the next one may have other permissions.
func (d *denials) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.subjects)
	d.any.Store(false)
}

// mayUse returns an error for a subject that is too long for NATS.
func (b *Broker) mayUse(subject string) error {
	if most := b.longest.Load(); most > 0 && int64(len(subject)) > most {
		return fmt.Errorf("natsbroker: %w: its subject has %d bytes, and NATS takes %d: raise max_control_line of its servers",
			broker.ErrInvalidTopic, len(subject), most)
	}
	return nil
}

// lineSpace is what a line of the protocol has besides the subject: the command, the inbox for
// the reply, and numbers.
const lineSpace = 128

// lineSizes are the lengths of lines that are tried, longest first: that of the longest topic,
// and what somebody may have set max_control_line to.
var lineSizes = []int{maxPrefix + 3 + 3*maxTopic + lineSpace, 2048, 1024, 512, 256}

// probeTimeout is how long one attempt to measure may take.
const probeTimeout = 5 * time.Second

// measureLines finds out how long a line NATS takes. It does not say so, and ends a
// connection with a longer one for good: it would be the broker's, with all of its
// subscriptions. So another one tries.
func (b *Broker) measureLines() {
	for !b.nc.IsConnected() {
		if !sleep(b.ctx, 100*time.Millisecond) {
			return
		}
	}
	for i, size := range lineSizes {
		tooLong, err := b.isLineTooLong(size)
		if err != nil {
			b.logger.Debug("natsbroker: how long a subject may be is not known", "err", err)
			return
		}
		if tooLong {
			b.longest.Store(int64(max(size/2-lineSpace, 1))) // until it is known
			continue
		}
		if i > 0 {
			b.longest.Store(int64(size - lineSpace))
			b.logger.Warn("natsbroker: NATS takes short subjects only; raise max_control_line of its servers, of which 4096 is the default",
				"bytes", size-lineSpace)
		}
		return
	}
}

func (b *Broker) isLineTooLong(size int) (bool, error) {
	o := b.nc.Opts
	o.Name = "livetopic: measures"
	o.AllowReconnect, o.RetryOnFailedConnect = false, false
	o.Timeout = probeTimeout
	o.AsyncErrorCB = func(*nats.Conn, *nats.Subscription, error) {}
	o.ClosedCB, o.ConnectedCB, o.DisconnectedCB, o.DisconnectedErrCB, o.ReconnectedCB = nil, nil, nil, nil, nil
	o.DiscoveredServersCB, o.LameDuckModeHandler, o.ReconnectErrCB = nil, nil, nil
	nc, err := o.Connect()
	if err != nil {
		return false, err
	}
	defer nc.Close()
	subject := b.deliverySubject(strings.Repeat("x", size-lineSpace-len(b.deliverySubject(""))))
	if _, err := nc.SubscribeSync(subject); err != nil { // somebody might store a publication
		return false, err
	}
	if err = nc.FlushTimeout(probeTimeout); err == nil {
		return false, nil
	}
	if last := nc.LastError(); last != nil && strings.Contains(strings.ToLower(last.Error()), "maximum control line") {
		return true, nil
	}
	return false, err
}
