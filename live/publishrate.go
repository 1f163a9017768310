package live

import (
	"sync"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// publishRates counts what clients publish to topics that have a PublishRate. A topic need not have a
// subscriber here, so the counts are not kept with the topics. The zero value is ready for use.
type publishRates struct {
	mu      sync.Mutex         // guards the fields below; no lock is taken under it
	topics  map[string]limiter // those that were published to a short time ago
	cleanAt int                // how many topics there may be before those that are at rest are removed
}

// minRatesKept is how many topics are kept without a look at which are at rest. They take 100 KB at most, if their
// names are short.
const minRatesKept = 1000

// allow counts one publication, and reports whether the topic's rate allows it.
func (p *publishRates) allow(topic string, o TopicOptions) bool {
	if o.PublishRate <= 0 {
		return true
	}
	burst := o.PublishBurst
	setDefault(&burst, o.PublishRate)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := clock.Now()
	l := p.topics[topic]
	if !l.allow(newRate(o.PublishRate, burst), now) {
		return false
	}
	if len(p.topics) >= max(p.cleanAt, minRatesKept) {
		p.clean(now)
	}
	if p.topics == nil {
		p.topics = make(map[string]limiter)
	}
	p.topics[topic] = l
	return true
}

// clean removes the topics that may be published to at full burst again: for them nothing need be known.
// It is called each time that the number has doubled, so that it costs little for each publication. mu
// is held.
func (p *publishRates) clean(now int64) {
	for topic, l := range p.topics {
		if l.paidUntil <= now {
			delete(p.topics, topic)
		}
	}
	p.cleanAt = 2 * len(p.topics)
}
