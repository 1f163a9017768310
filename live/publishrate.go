package live

import (
	"sync"

	"github.com/livetopic/livetopic/live/internal/clock"
)

// publishRates counts what clients publish to topics that have a PublishRate. Clients may publish to a
// topic that has no subscriber at this server. So the counts are not in the topics' structs. The zero
// value is ready for use.
type publishRates struct {
	mu      sync.Mutex         // guards the fields below; no lock is taken under it
	topics  map[string]limiter // topics to which clients have published a short time ago
	cleanAt int                // clean is called when there are this many topics
	allowed publicationIDs     // of the publications that were counted and allowed
}

// minRatesKept is how many topics are kept before clean is called for the first time. They take about
// 100 KB if their names are short.
const minRatesKept = 1000

// allow counts one publication, and reports whether the topic's rate allows it. id is its ID; "": it has
// none. If the topic keeps history, a publication that this server has allowed before is not counted
// again. Its client does not know whether it was made, and must get the answer. The broker makes it only
// once. Without history the broker would make it again, so it counts again.
func (p *publishRates) allow(topic, id string, o TopicOptions) bool {
	if o.PublishRate <= 0 {
		return true
	}
	if o.History <= 0 {
		id = ""
	}
	burst := o.PublishBurst
	setDefault(&burst, o.PublishRate)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, repeated := p.allowed.find(topic, id); repeated {
		return true
	}
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
	p.allowed.add(topic, id, Position{})
	return true
}

// clean removes the topics that are at rest: those whose clients may publish at full burst again. They
// need no count. clean is called when the number of topics has doubled, so that it costs little for
// each publication. mu is held.
func (p *publishRates) clean(now int64) {
	for topic, l := range p.topics {
		if l.paidUntil <= now {
			delete(p.topics, topic)
		}
	}
	p.cleanAt = 2 * len(p.topics)
}
