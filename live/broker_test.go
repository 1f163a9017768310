package live_test

import (
	"errors"
	"testing"
	"time"

	"github.com/livetopic/livetopic/live"
)

// asking is a broker that asks for the server's rules.
type asking struct {
	live.Broker
	rules live.Rules
}

func (a *asking) Start(s live.Sink) {
	a.rules = s.(live.Rules)
	a.Broker.Start(s)
}

func TestBrokerMayAskForTheServersRules(t *testing.T) {
	a := &asking{Broker: live.NewMemoryBroker(live.MemoryOptions{})}
	srv := live.New(live.Options{Broker: a, Topics: func(topic string) live.TopicOptions {
		return live.TopicOptions{History: len(topic), HistoryAge: time.Minute}
	}})
	defer shut(t, srv)
	if got := a.rules.TopicOptions("1234"); got != (live.TopicOptions{History: 4, HistoryAge: time.Minute}) {
		t.Errorf("%+v", got)
	}
}

func TestCheckData(t *testing.T) {
	for _, good := range []string{"", "1", " {} ", `"ä"`} {
		if err := live.CheckData([]byte(good)); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{" ", "{", "1 2", "\"\xff\"", "NaN"} {
		if err := live.CheckData([]byte(bad)); !errors.Is(err, live.ErrInvalidData) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
