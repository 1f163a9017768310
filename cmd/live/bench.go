package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/livetopic/livetopic/live/liveclient"
)

// bench connects clients to a topic, publishes to it, and measures what comes.
type bench struct {
	p       *program
	topic   string
	clients int
	dials   int // at once
	rate    float64
	size    int
	length  time.Duration
	mark    string    // begins the text that is published, so that others' publications do not count
	began   time.Time // the times in the texts count from it, on the monotonic clock

	open, failed, lost atomic.Int64 // open: how many connections there are now
	refusals           errorCounts

	published, refused atomic.Int64
	publishErrors      errorCounts

	delivered, foreign, gaps, repeated atomic.Int64
	latencies                          histogram
	connects                           histogram
}

// runBench measures a server. Everything that it measures, it measures on its own clock.
func runBench(ctx context.Context, p *program, args []string) error {
	b := &bench{p: p}
	p.flags.IntVar(&b.clients, "clients", 100, "connect `n` clients")
	p.flags.IntVar(&b.dials, "dials", 20, "dial `n` at once")
	p.flags.Float64Var(&b.rate, "rate", 10, "publish `n` times a second; 0: only listen to what others publish")
	p.flags.IntVar(&b.size, "size", 128, "`bytes` of each publication")
	p.flags.DurationVar(&b.length, "for", 10*time.Second, "how long to publish, or to listen")
	asJSON := p.flags.Bool("json", false, "print the result as one JSON object")
	rest, err := p.arguments(args, 1)
	switch {
	case err != nil:
		return err
	case b.clients < 1 || b.dials < 1:
		return usageError("-clients and -dials are 1 or more")
	case b.rate < 0 || b.rate > 100_000 || math.IsNaN(b.rate):
		return usageError("-rate is from 0 to 100000")
	case b.size < 0 || b.size > 1<<20:
		return usageError("-size is from 0 to 1048576")
	case b.length <= 0:
		return usageError("-for is above 0")
	}
	b.topic = rest[0]
	b.began = time.Now()
	b.mark = "live-bench-" + rand.Text()[:8] + " "
	r, err := b.run(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(p.out, r)
	}
	r.print(p)
	return nil
}

func (b *bench) run(ctx context.Context) (*result, error) {
	progress, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { b.tellProgress(progress) }) // ends with progress
	stop := func() {
		cancel()
		telling.Wait()
	}
	defer stop()

	began := time.Now()
	clients := b.connectAll(ctx)
	took := time.Since(began)
	defer closeAll(clients)
	if len(clients) == 0 {
		return nil, fmt.Errorf("no client could connect: %s", b.refusals.String())
	}
	began = time.Now()
	if b.rate > 0 {
		b.publish(ctx, clients[0])
	} else {
		sleep(ctx, b.length)
	}
	length := time.Since(began)
	b.awaitDeliveries(ctx, int64(len(clients)))
	stop() // before the clients leave
	switch {
	case b.rate == 0 || b.published.Load() > 0:
	case b.refused.Load() == 0:
		return nil, errors.New("it was ended before anything was published")
	default:
		return nil, fmt.Errorf("nothing was published: %s", b.publishErrors.String())
	}
	return b.result(len(clients), took, length), nil
}

// connectAll connects the clients and subscribes them. It returns those for which both succeeded.
func (b *bench) connectAll(ctx context.Context) []*liveclient.Client {
	var mu sync.Mutex
	var clients []*liveclient.Client
	tokens := make(chan struct{}, b.dials)
	var dialling sync.WaitGroup
	for range b.clients {
		select {
		case tokens <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		dialling.Go(func() { // ends when the client is subscribed, or has failed to
			defer func() { <-tokens }()
			began := time.Now()
			c, err := b.connect(ctx)
			if err != nil {
				b.failed.Add(1)
				b.refusals.add(err)
				return
			}
			b.connects.add(time.Since(began))
			mu.Lock()
			defer mu.Unlock()
			clients = append(clients, c)
		})
	}
	dialling.Wait()
	return clients
}

// connect connects one client and waits until it is subscribed.
func (b *bench) connect(ctx context.Context) (*liveclient.Client, error) {
	c, err := b.p.connectWith(ctx, b.countConnection(), func(error) {}) // a subscription that is refused is counted
	if err != nil {
		return nil, err
	}
	newest := int64(-1) // the newest number; only the subscription's callbacks use it
	s, err := c.Subscribe(b.topic, func(m liveclient.Message) { b.hear(m, &newest) },
		liveclient.Unseen(), liveclient.OnGap(func(liveclient.Gap) { b.gaps.Add(1) }))
	if err == nil {
		waiting, cancel := context.WithTimeout(ctx, b.p.connection.timeout)
		defer cancel()
		err = s.Wait(waiting)
	}
	if err != nil {
		c.Close()
		return nil, explain(err)
	}
	return c, nil
}

// countConnection returns a client's OnStatus. It counts the connection that is lost, and not each failed attempt after it.
func (b *bench) countConnection() func(liveclient.Status) {
	isOpen := false // the calls of OnStatus follow one another
	return func(s liveclient.Status) {
		wasOpen := isOpen
		isOpen = s.State == liveclient.Open
		switch {
		case isOpen && !wasOpen:
			b.open.Add(1)
		case wasOpen && !isOpen:
			b.open.Add(-1)
			if closed := new(liveclient.CloseError); s.State == liveclient.Waiting || errors.As(s.Err, &closed) {
				b.lost.Add(1)
			}
		}
	}
}

// publish publishes at the rate. A server that is slower than the rate gets several at once, a hundred
// at most: then the rate is not kept, and the result shows it.
func (b *bench) publish(ctx context.Context, c *liveclient.Client) {
	ctx, cancel := context.WithTimeout(ctx, b.length)
	defer cancel()
	const atOnce = 100
	tokens := make(chan struct{}, atOnce)
	var publishing sync.WaitGroup
	defer publishing.Wait()
	began := time.Now()
	for number := int64(0); ; number++ {
		sleep(ctx, time.Until(began.Add(time.Duration(float64(number)/b.rate*float64(time.Second)))))
		select {
		case tokens <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			return
		}
		publishing.Go(func() { // ends with the answer, or the client's CallTimeout
			defer func() { <-tokens }()
			if _, err := c.Publish(context.WithoutCancel(ctx), b.topic, b.text(number)); err != nil {
				b.refused.Add(1)
				b.publishErrors.add(explain(err))
				return
			}
			b.published.Add(1)
		})
	}
}

// text returns what is published: the mark, a number, the time, and x up to the size.
func (b *bench) text(number int64) string {
	text := fmt.Sprintf("%s%d %v ", b.mark, number, time.Since(b.began))
	return text + strings.Repeat("x", max(b.size-len(text), 0))
}

// hear notes a message. The application's OnPublish may have put the text into an object, so the mark is
// looked for anywhere in the data.
func (b *bench) hear(m liveclient.Message, newest *int64) {
	_, rest, found := bytes.Cut(m.Data, []byte(b.mark))
	if !found {
		b.foreign.Add(1)
		return
	}
	fields := strings.Fields(string(rest[:min(len(rest), 64)]))
	if len(fields) < 2 {
		b.foreign.Add(1)
		return
	}
	number, err := strconv.ParseInt(fields[0], 10, 64)
	sent, err2 := time.ParseDuration(fields[1])
	if errors.Join(err, err2) != nil {
		b.foreign.Add(1)
		return
	}
	if number == *newest {
		b.repeated.Add(1)
	}
	*newest = number
	b.delivered.Add(1)
	b.latencies.add(time.Since(b.began) - sent)
}

// awaitDeliveries waits until every client has every publication. It gives up two seconds after the newest
// delivery.
func (b *bench) awaitDeliveries(ctx context.Context, clients int64) {
	before, since := b.delivered.Load(), time.Now()
	for ctx.Err() == nil && b.delivered.Load() < b.published.Load()*clients {
		sleep(ctx, 10*time.Millisecond)
		if now := b.delivered.Load(); now != before {
			before, since = now, time.Now()
		}
		if time.Since(since) > 2*time.Second {
			return
		}
	}
}

// tellProgress prints a line each second.
func (b *bench) tellProgress(ctx context.Context) {
	before := int64(0)
	for sleep(ctx, time.Second) {
		delivered := b.delivered.Load()
		fmt.Fprintf(b.p.err, "%d connected, %d failed, %d lost; %d published; %d deliveries/s, p99 %v\n",
			b.open.Load(), b.failed.Load(), b.lost.Load(), b.published.Load(), delivered-before, b.latencies.share(0.99).Round(time.Microsecond))
		before = delivered
	}
}

// result is what a run has measured. Times are in milliseconds.
type result struct {
	Clients     int     `json:"clients"`
	Failed      int64   `json:"failed"`
	Lost        int64   `json:"connections_lost"`
	ConnectTime float64 `json:"connect_seconds"`
	ConnectP50  float64 `json:"connect_p50_ms"`
	ConnectP99  float64 `json:"connect_p99_ms"`
	Published   int64   `json:"published"`
	Refused     int64   `json:"publications_failed"`
	Rate        float64 `json:"published_per_second"`
	Delivered   int64   `json:"delivered"`
	Missing     int64   `json:"missing"`
	Repeated    int64   `json:"repeated"`
	Gaps        int64   `json:"gaps"`
	Others      int64   `json:"others"`
	P50         float64 `json:"p50_ms"`
	P90         float64 `json:"p90_ms"`
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`

	refusals, publishErrors string
}

func (b *bench) result(clients int, connecting, length time.Duration) *result {
	ms := func(d time.Duration) float64 { return math.Round(float64(d.Microseconds())) / 1000 }
	return &result{
		Clients:     clients,
		Failed:      b.failed.Load(),
		Lost:        b.lost.Load(),
		ConnectTime: connecting.Seconds(),
		ConnectP50:  ms(b.connects.share(0.5)),
		ConnectP99:  ms(b.connects.share(0.99)),
		Published:   b.published.Load(),
		Refused:     b.refused.Load(),
		Rate:        float64(b.published.Load()) / length.Seconds(),
		Delivered:   b.delivered.Load(),
		Missing:     max(b.published.Load()*int64(clients)-b.delivered.Load()+b.repeated.Load(), 0),
		Repeated:    b.repeated.Load(),
		Gaps:        b.gaps.Load(),
		Others:      b.foreign.Load(),
		P50:         ms(b.latencies.share(0.5)),
		P90:         ms(b.latencies.share(0.9)),
		P99:         ms(b.latencies.share(0.99)),
		Max:         ms(b.latencies.share(1)),

		refusals:      b.refusals.String(),
		publishErrors: b.publishErrors.String(),
	}
}

func (r *result) print(p *program) {
	w := p.out
	fmt.Fprintf(w, "connected   %d clients in %.1f s; connect and subscribe p50 %g ms, p99 %g ms\n", r.Clients, r.ConnectTime, r.ConnectP50, r.ConnectP99)
	if r.Failed > 0 {
		fmt.Fprintf(w, "failed      %d clients: %s\n", r.Failed, r.refusals)
	}
	fmt.Fprintf(w, "lost        %d connections, %d gaps\n", r.Lost, r.Gaps)
	if r.Published+r.Refused > 0 {
		fmt.Fprintf(w, "published   %d, %.1f a second\n", r.Published, r.Rate)
	}
	if r.Refused > 0 {
		fmt.Fprintf(w, "refused     %d: %s\n", r.Refused, r.publishErrors)
	}
	if r.Published > 0 {
		fmt.Fprintf(w, "delivered   %d, %d missing, %d repeated\n", r.Delivered, r.Missing, r.Repeated)
		fmt.Fprintf(w, "latency     p50 %g ms, p90 %g ms, p99 %g ms, max %g ms\n", r.P50, r.P90, r.P99, r.Max)
	}
	if r.Others > 0 || r.Published == 0 {
		fmt.Fprintf(w, "from others %d messages\n", r.Others)
	}
}

func closeAll(clients []*liveclient.Client) {
	var closing sync.WaitGroup
	for _, c := range clients {
		closing.Go(func() { c.Close() }) // ends with the client's CloseTimeout
	}
	closing.Wait()
}

// sleep waits, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return ctx.Err() == nil
}

// errorCounts counts errors by their text.
type errorCounts struct {
	mu     sync.Mutex
	counts map[string]int
}

func (e *errorCounts) add(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.counts == nil {
		e.counts = make(map[string]int)
	}
	if text := oneLine(err.Error()); len(e.counts) < 100 || e.counts[text] > 0 {
		e.counts[text]++
	}
}

// String returns the most frequent error, and how many others there are.
func (e *errorCounts) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	commonest := ""
	for text, n := range e.counts {
		if n > e.counts[commonest] || (n == e.counts[commonest] && text < commonest) {
			commonest = text
		}
	}
	if n := len(e.counts) - 1; n > 0 {
		return fmt.Sprintf("%s (and %d other errors)", commonest, n)
	}
	return commonest
}

// histogram counts durations in steps of 2 percent, from a microsecond to ten minutes. So its memory does
// not grow with a run.
type histogram struct {
	mu      sync.Mutex
	counts  [1024]int64
	total   int64
	longest time.Duration
}

const step = 1.02

func (h *histogram) add(d time.Duration) {
	at := 0
	if d > time.Microsecond {
		at = min(int(math.Log(float64(d)/1000)/math.Log(step)), len(h.counts)-1)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[at]++
	h.total++
	h.longest = max(h.longest, d)
}

// share returns the duration that a share of all durations does not exceed. 0: there are none.
func (h *histogram) share(of float64) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := int64(math.Ceil(of * float64(h.total)))
	for at, n := range h.counts {
		if left -= n; left <= 0 && h.total > 0 && at < len(h.counts)-1 { // the last step has no end
			return min(time.Duration(1000*math.Pow(step, float64(at+1))), h.longest)
		}
	}
	return h.longest
}
