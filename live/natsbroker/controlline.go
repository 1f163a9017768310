package natsbroker

import (
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/livetopic/livetopic/live"
)

// mayUse returns an error for a subject that is too long for NATS.
func (b *Broker) mayUse(subject string) error {
	if most := b.maxSubject.Load(); most > 0 && int64(len(subject)) > most {
		return fmt.Errorf("natsbroker: %w: its subject has %d bytes, and NATS takes %d: raise max_control_line of its servers",
			live.ErrInvalidTopic, len(subject), most)
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
			b.maxSubject.Store(int64(max(size/2-lineSpace, 1))) // until it is known
			continue
		}
		if i > 0 {
			b.maxSubject.Store(int64(size - lineSpace))
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
