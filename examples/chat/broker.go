package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/livetopic/livetopic/live/natsbroker"
)

// maxMessages bounds the history of all rooms together: of messages of 2,000 runes
// it is 120 MB at the very worst. One more takes the place of the oldest.
const maxMessages = 100 * maxHistory

// streams keep what pages that come, or come back, are given. NATS in this program has
// them on its disk, one in a cluster has them on three.
func streams() []natsbroker.StreamConfig {
	return []natsbroker.StreamConfig{
		{Name: "CHAT", Subjects: []string{roomPrefix + ">"}, MaxMsgsPerTopic: maxHistory, MaxMsgs: maxMessages},
		{Name: "JOBS", Subjects: []string{"job:>"}, MaxMsgsPerTopic: 1},
	}
}

// openBroker starts NATS in this program, or connects to one, and returns when its
// streams are there: before, there is nothing that a page could do here.
func openBroker(ctx context.Context, c config, out io.Writer) (*natsbroker.Broker, error) {
	o := natsbroker.Options{StoreDir: c.store, Streams: streams()}
	waitFor, advice := "", ""
	switch {
	case c.nats != "":
		o.Servers = []string{c.nats}
		waitFor = "NATS at " + c.nats
	case c.cluster != "":
		o.Cluster = &natsbroker.Cluster{Listen: c.cluster, Routes: c.routes}
		waitFor = "other nodes"
	case c.store != "":
		advice = "\n-store names another folder; -store \"\" keeps history in memory"
	}
	b, err := natsbroker.New(o)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, advice)
	}
	soon, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err = b.Ready(soon)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(out, "Waiting for %s …\n", waitFor)
		err = b.Ready(ctx)
	}
	if err != nil {
		shutdown(b.Close)
		return nil, err
	}
	return b, nil
}
