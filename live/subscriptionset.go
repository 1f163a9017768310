package live

// subscriptionSet holds a session's subscriptions. The first few are in a slice, which is enough
// for most sessions. The others are in a map.
type subscriptionSet struct {
	few  []*subscription
	many map[string]*subscription // nil: all are in few
}

const fewSubscriptions = 8

func (set *subscriptionSet) len() int { return len(set.few) + len(set.many) }

func (set *subscriptionSet) find(topic string) *subscription {
	for _, sub := range set.few {
		if sub.topic.name == topic {
			return sub
		}
	}
	return set.many[topic]
}

func (set *subscriptionSet) add(sub *subscription) {
	if len(set.few) < fewSubscriptions {
		set.few = append(set.few, sub)
		return
	}
	if set.many == nil {
		set.many = make(map[string]*subscription)
	}
	set.many[sub.topic.name] = sub
}

func (set *subscriptionSet) remove(sub *subscription) {
	for i, other := range set.few {
		if other == sub {
			last := len(set.few) - 1
			set.few[i], set.few[last] = set.few[last], nil
			set.few = set.few[:last]
			return
		}
	}
	delete(set.many, sub.topic.name)
}

// list returns the subscriptions, in no particular order.
func (set *subscriptionSet) list() []*subscription {
	all := append([]*subscription(nil), set.few...)
	for _, sub := range set.many {
		all = append(all, sub)
	}
	return all
}

// take empties the set and returns what was in it.
func (set *subscriptionSet) take() []*subscription {
	all := set.few
	for _, sub := range set.many {
		all = append(all, sub)
	}
	*set = subscriptionSet{}
	return all
}
