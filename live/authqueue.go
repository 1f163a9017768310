package live

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// After a restart all clients of a server dial it within seconds. If OnAuth ran for all of them at
// once, the database that it asks would slow down until every call takes longer than AuthTimeout. The
// clients would come back, and none would ever be served. So MaxAuthsAtOnce calls run at a time. Other
// handshakes wait. If MaxAuthsWaiting wait already, a handshake is refused at once, which costs
// little.
//
// The addresses of clients take turns. So an address that dials without end delays only itself.
// If all clients come through one proxy, there is one address. Handshakes are then served in the
// order in which they came.

// authQueue bounds the calls of OnAuth that run at once. nil: there is no bound.
type authQueue struct {
	patience   time.Duration // how long a handshake may wait
	maxWaiting int           // how many handshakes may wait

	mu        sync.Mutex                 // guards the fields below; no lock is taken under it
	refusal   error                      // refuses each handshake that would have to wait; nil: it may wait
	freeCalls int                        // how many more calls of OnAuth may begin now
	waiting   int                        // how many handshakes wait, of all addresses
	addresses map[string]*addressOfAuths // the addresses with a handshake that waits
	turns     []*addressOfAuths          // the same addresses; the first is served next
}

// addressOfAuths is a client's address with its handshakes that wait.
type addressOfAuths struct {
	address string
	waiting []*authWaiter // the first has waited longest
}

// authWaiter is one handshake that waits.
type authWaiter struct {
	from   *addressOfAuths
	called chan struct{} // closed when the wait is over
	err    error         // why OnAuth is not called; nil: the turn has come. Set before called is closed
}

func newAuthQueue(o *Options) *authQueue {
	if o.OnAuth == nil || o.MaxAuthsAtOnce < 0 {
		return nil
	}
	return &authQueue{
		patience:   o.AuthTimeout,
		maxWaiting: o.MaxAuthsWaiting,
		freeCalls:  o.MaxAuthsAtOnce,
		addresses:  make(map[string]*addressOfAuths),
	}
}

// enter waits for the turn of a handshake from a remote address. If it returns nil, the caller must
// call leave after OnAuth. ctx is the request's: net/http ends it when the client has left. The error
// is a refusal.
func (q *authQueue) enter(ctx context.Context, remote string) error {
	if q == nil {
		return nil
	}
	w, err := q.beginOrWait(addressOf(remote))
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
	if err == nil && ctx.Err() != nil { // the client left at the moment of its turn
		q.leave()
		return errClientGone
	}
	return err
}

// beginOrWait lets a handshake begin, refuses it or puts it in the queue. The waiter is nil unless the
// handshake is in the queue. The error is the refusal.
func (q *authQueue) beginOrWait(address string) (*authWaiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.freeCalls > 0 {
		q.freeCalls--
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
		from = &addressOfAuths{address: address}
		q.addresses[address] = from
		q.turns = append(q.turns, from)
	}
	w := &authWaiter{from: from, called: make(chan struct{})}
	from.waiting = append(from.waiting, w)
	q.waiting++
	return w, nil
}

// makeSpace is called when the queue is full. It reports whether a handshake of an address may wait
// all the same. That is so if the address has less than an equal share of the queue. Then the newest
// handshake of the address with the most is refused. So one address cannot keep the others out. mu is
// held.
func (q *authQueue) makeSpace(address string) bool {
	mine := 0
	if from := q.addresses[address]; from != nil {
		mine = len(from.waiting)
	}
	if mine+1 >= q.waiting/len(q.addresses) {
		return false
	}
	// Here each address has two handshakes on average, so there are at most MaxAuthsWaiting/2 addresses.
	var most *addressOfAuths
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

// leave is called when OnAuth has returned. The next handshake in the queue then calls OnAuth.
func (q *authQueue) leave() {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.turns) == 0 {
		q.freeCalls++
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

// refuseAll refuses all handshakes that wait, and from then on each that would have to wait.
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

// giveUp takes a handshake out of the queue, and returns err. If the wait was over already, it returns
// the result of the wait instead.
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

// length returns how many handshakes wait, for Stats.
func (q *authQueue) length() int {
	if q == nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}

// end ends a wait. mu is held, and the handshake is out of the queue.
func (w *authWaiter) end(err error) {
	w.err = err
	close(w.called)
}

// addressOf returns the part of Request.RemoteAddr that names one client: an IPv4 address, or the first
// 64 bits of an IPv6 address. A provider gives all addresses with the same 64 bits to one customer.
func addressOf(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		host, _, err := net.SplitHostPort(remote)
		if err != nil {
			return remote // a middleware has set an address without a port
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
