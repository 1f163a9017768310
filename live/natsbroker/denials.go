package natsbroker

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live/broker"
)

// errDenied is wrapped by the error for a subject that NATS does not permit.
var errDenied error = &sentinel{"natsbroker: NATS does not permit a subject", broker.ErrUnavailable}

// denials holds the subjects that NATS does not permit. NATS reports a denial after the call
// that used the subject.
type denials struct {
	hasAny atomic.Bool // subjects is not empty

	mu       sync.Mutex // guards subjects
	subjects map[string]denial
}

type denial struct {
	subscribing bool
	at          time.Time
	err         error
}

const (
	// deniedFor is how long Ready fails after a subject was denied.
	deniedFor = time.Minute

	// deniedAgain is how long a publication to a denied subject fails at once. After that NATS
	// is asked again.
	deniedAgain = 10 * time.Second

	// maxDenials bounds how many subjects are remembered. An operator needs to see only a few.
	maxDenials = 1000
)

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"\s]+)"`)

// add notes a permissions violation, and reports whether the subject was one of the broker's.
func (d *denials) add(b *Broker, err error) bool {
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
	d.hasAny.Store(true)
	d.mu.Unlock()
	if b.logLimit.due("denied " + what + pattern) {
		b.logger.Warn("natsbroker: NATS does not permit a subject", "subject", subject, "err", e)
	}
	return true
}

// publishError returns why NATS would drop a publication to a subject; nil: it is not known to.
func (d *denials) publishError(subject string) error {
	if !d.hasAny.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.subjects[subject]; ok && !n.subscribing && time.Since(n.at) < deniedAgain {
		return n.err
	}
	return nil
}

// current returns a denial of a subject that is in use now; nil: there is none.
func (d *denials) current(b *Broker) error {
	if !d.hasAny.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for subject, n := range d.subjects {
		in := b.hub.findDelivered(subject)
		switch {
		case n.subscribing && (in != nil && in.hasSubscriber.Load() || strings.HasPrefix(subject, b.busSubject(""))):
			return n.err // NATS tells it once for each connection, so it holds until the next connection
		case time.Since(n.at) < deniedFor:
			return n.err
		}
	}
	return nil
}

// forget drops all denials when a connection ends: the next connection may have other
// permissions.
func (d *denials) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.subjects)
	d.hasAny.Store(false)
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

// inboxes returns the prefix of the subjects for answers.
func (b *Broker) inboxes() string {
	if prefix := b.nc.Opts.InboxPrefix; prefix != "" {
		return prefix + "."
	}
	return nats.InboxPrefix
}

// patternOf returns the pattern that covers a subject and its like: live.d.> for live.d.chat.1.
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
