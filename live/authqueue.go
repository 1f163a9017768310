package live

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A server that restarts is dialled by all its clients within seconds. If OnAuth ran for all of
// them at once, the database that it asks would slow down until every call takes longer than
// AuthTimeout. The clients would come back, and none would ever be served. So MaxAuthsAtOnce calls
// run at a time. The other handshakes wait, and those beyond MaxAuthsWaiting are refused at once,
// which costs little.
//
// The addresses of clients take turns. So one address that dials without end delays only itself.
// Behind a proxy that all clients come through there is one address, and the handshakes are served
// in the order in which they came.

// authQueue bounds the calls of OnAuth that run at once. nil: there is no bound.
type authQueue struct {
	patience   time.Duration // how long a handshake may wait
	maxWaiting int

	mu        sync.Mutex             // guards what follows; no lock is taken under it
	refusal   error                  // what a handshake that would have to wait gets; nil: it waits
	free      int                    // how many more calls may begin now
	waiting   int                    // handshakes of all addresses
	addresses map[string]*authsOfOne // those of which a handshake waits
	turns     []*authsOfOne          // the same; the first is served next
}

// authsOfOne holds the handshakes of one address that wait.
type authsOfOne struct {
	address string
	waiting []*authWaiter // the first has waited longest
}

// authWaiter is one handshake that waits.
type authWaiter struct {
	from   *authsOfOne
	called chan struct{} // closed when the wait is over
	err    error         // why OnAuth is not called; nil: its turn has come. Set before called is closed
}

func newAuthQueue(o *Options) *authQueue {
	if o.OnAuth == nil || o.MaxAuthsAtOnce < 0 {
		return nil
	}
	return &authQueue{
		patience:   o.AuthTimeout,
		maxWaiting: o.MaxAuthsWaiting,
		free:       o.MaxAuthsAtOnce,
		addresses:  make(map[string]*authsOfOne),
	}
}

// enter waits for the turn of a handshake. If it returns nil, the caller calls leave after OnAuth. ctx
// is the request's: net/http ends it when the client has left.
func (q *authQueue) enter(ctx context.Context, remote string) error {
	if q == nil {
		return nil
	}
	w, err := q.line(addressOf(remote))
	if w == nil {
		return err
	}
	patience := time.NewTimer(q.patience)
	defer patience.Stop()
	select {
	case <-w.called:
		err = w.err
	case <-patience.C:
		err = q.giveUp(w, errWaitOfAuths)
	case <-ctx.Done():
		err = q.giveUp(w, errClientGone)
	}
	if err == nil && ctx.Err() != nil { // it has left while its turn came
		q.leave()
		return errClientGone
	}
	return err
}

// line lets a handshake begin at once, or has it wait. If the waiter is nil, it need not wait, or was
// refused.
func (q *authQueue) line(address string) (*authWaiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free > 0 {
		q.free--
		return nil, nil
	}
	if q.refusal != nil {
		return nil, q.refusal
	}
	if q.waiting >= q.maxWaiting && !q.makeSpace(address) {
		return nil, errQueueOfAuths
	}
	from := q.addresses[address]
	if from == nil {
		from = &authsOfOne{address: address}
		q.addresses[address] = from
		q.turns = append(q.turns, from)
	}
	w := &authWaiter{from: from, called: make(chan struct{})}
	from.waiting = append(from.waiting, w)
	q.waiting++
	return w, nil
}

// makeSpace is called when the queue is full. If an address has less than an equal share of it, the newest
// handshake of the address with the most is refused instead. So one address cannot keep the others
// out. mu is held.
func (q *authQueue) makeSpace(address string) bool {
	mine := 0
	if from := q.addresses[address]; from != nil {
		mine = len(from.waiting)
	}
	if mine+1 >= q.waiting/len(q.addresses) { // so the walk below visits half of MaxAuthsWaiting at most
		return false
	}
	var most *authsOfOne
	for _, from := range q.turns {
		if most == nil || len(from.waiting) > len(most.waiting) {
			most = from
		}
	}
	newest := most.waiting[len(most.waiting)-1]
	q.remove(newest)
	newest.end(errQueueOfAuths)
	return true
}

// leave is called when OnAuth has returned. The next handshake takes the place.
func (q *authQueue) leave() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.turns) == 0 {
		q.free++
		return
	}
	from := q.turns[0]
	next := from.waiting[0]
	q.remove(next)
	if len(from.waiting) > 0 { // the other addresses come first
		q.turns = append(q.turns[1:], from)
	}
	next.end(nil)
}

// refuseAll ends the wait of all handshakes. From then on none waits.
func (q *authQueue) refuseAll(err error) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refusal = err
	for len(q.turns) > 0 {
		w := q.turns[0].waiting[0]
		q.remove(w)
		w.end(err)
	}
}

// giveUp takes a handshake out of the queue, with an error. It returns another error, or nil, if the
// wait was over already.
func (q *authQueue) giveUp(w *authWaiter, err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-w.called:
		return w.err
	default:
		q.remove(w)
		return err
	}
}

// remove takes a handshake out of the queue; mu is held.
func (q *authQueue) remove(w *authWaiter) {
	from := w.from
	i := slices.Index(from.waiting, w)
	from.waiting = slices.Delete(from.waiting, i, i+1)
	q.waiting--
	if len(from.waiting) == 0 {
		delete(q.addresses, from.address)
		i := slices.Index(q.turns, from)
		q.turns = slices.Delete(q.turns, i, i+1)
	}
}

// length returns how many handshakes wait.
func (q *authQueue) length() int {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}

func (w *authWaiter) end(err error) {
	w.err = err
	close(w.called)
}

// addressOf returns what counts as one address: an IPv4 address, or the first 64 bits of an IPv6 address,
// of which one subscriber of a provider has all.
func addressOf(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		host, _, err := net.SplitHostPort(remote)
		if err != nil {
			return remote // a middleware has put the client's address there, without a port
		}
		return host
	}
	ip := at.Addr().Unmap()
	if ip.Is6() {
		if prefix, err := ip.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return ip.String()
}
