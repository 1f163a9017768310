package main

import (
	"fmt"

	"github.com/livetopic/livetopic/bench/server"
)

// The headlines. Less is better in all of them.
var (
	cpuHeadline     = column{"server CPU ns/delivery", cpuOf, wholeText}
	latencyHeadline = column{"latency p99, µs", p99Of, microsText}
	dialHeadline    = column{"server CPU µs/dial", cpuOf, microsText}
	servedHeadline  = column{"all served, ms", servedOf, millisText}
	memoryHeadline  = column{"resident KB/session", sessionRSSOf, kiloText}
)

// The columns that more than one table has.
var (
	cpuColumn     = column{"CPU ns/delivery", cpuOf, wholeText}
	dialCPUColumn = column{"CPU µs/dial", cpuOf, microsText}
	rssColumn     = column{"RSS MB", rssOf, megabyteText}
	p50Column     = column{"p50 µs", p50Of, microsText}
	p99Column     = column{"p99 µs", p99Of, microsText}
	maxColumn     = column{"max µs", maxOf, microsText}
)

func cpuOf(f figures) float64        { return f.CPU }
func rssOf(f figures) float64        { return f.RSS }
func rateOf(f figures) float64       { return f.Rate }
func allocsOf(f figures) float64     { return f.Allocs }
func p50Of(f figures) float64        { return f.P50 }
func p99Of(f figures) float64        { return f.P99 }
func maxOf(f figures) float64        { return f.Max }
func servedOf(f figures) float64     { return f.Served }
func sessionRSSOf(f figures) float64 { return f.SessionRSS }

var (
	// costTable has what is counted for each delivery.
	costTable = comparison(cpuColumn,
		column{"deliveries/s", rateOf, wholeText},
		column{"allocs/delivery", allocsOf, allocsText},
		rssColumn,
	)
	latencyTable = comparison(p99Column, p50Column,
		column{"p99.9 µs", func(f figures) float64 { return f.P999 }, microsText},
		cpuColumn,
	)
	memoryTable = comparison(
		column{"RSS KB/session", sessionRSSOf, kiloText},
		column{"heap KB", func(f figures) float64 { return f.SessionHeap }, kiloText},
		column{"stack KB", func(f figures) float64 { return f.SessionStack }, kiloText},
		column{"RSS MB in all", rssOf, megabyteText},
	)
	dialTable = comparison(dialCPUColumn,
		column{"dials/s", rateOf, wholeText},
		column{"allocs/dial", allocsOf, wholeText},
		rssColumn,
	)
	stormTable = comparison(
		column{"all served ms", servedOf, millisText},
		column{"p99 ms", p99Of, millisText},
		column{"max ms", maxOf, millisText},
		dialCPUColumn,
		column{"failures", func(f figures) float64 { return f.Failures }, wholeText},
	)
	resumeTable = comparison(p99Column,
		column{"quiet p99 µs", func(f figures) float64 { return f.Quiet }, microsText},
		p50Column, maxColumn,
		column{"all resumed ms", servedOf, millisText},
	)
	slowTable = withNotes("the slow session", comparison(p99Column, p50Column, maxColumn))
)

// noFloor are the servers that can sign clients in and speak TLS. The floor can do neither.
var noFloor = []server.Role{server.Subject, server.Variant, server.Peer}

// catalogue lists all workloads in the order of the report.
func (v *flagValues) catalogue() ([]workload, error) {
	sizes, err := parseInts(v.growth)
	if err != nil {
		return nil, fmt.Errorf("-growth: %w", err)
	}
	burst, single, topics := v.burst, v.single, v.topics
	burst.Topics, burst.Each = 1, burst.Sessions
	single.Topics, single.Each, single.Publications = 1, single.Sessions, 1
	topics.Sessions = topics.Topics * topics.Each
	topics.Publications *= topics.Topics
	paced := v.paced
	paced.Sessions = paced.Topics * paced.Each
	v.resume.paced = paced
	return []workload{
		{
			Name:  "burst",
			Title: fmt.Sprintf("bursts of %d on one topic, %d sessions, %d B", burst.Publications, burst.Sessions, burst.Payload),
			About: "A burst is published as fast as the server takes it; the next begins when every session has all of it.",
			Cases: []testcase{{Run: burst.run}}, Table: costTable, Headline: cpuHeadline,
		},
		{
			Name:  "single",
			Title: fmt.Sprintf("one publication at a time, %d sessions, %d B", single.Sessions, single.Payload),
			About: "The next is published when every session has the one before. Nothing can be batched: one write a delivery is the least.",
			Cases: []testcase{{Run: single.run}}, Table: costTable, Headline: cpuHeadline,
		},
		{
			Name: "topics",
			Title: fmt.Sprintf("%d topics of %d sessions, bursts of %d on each, %d B",
				topics.Topics, topics.Each, v.topics.Publications, topics.Payload),
			About: "As burst, with the publications in turn over the topics, so that those for one session lie far apart.",
			Cases: []testcase{{Run: topics.run}}, Table: costTable, Headline: cpuHeadline,
		},
		{
			Name:  "chat",
			Title: fmt.Sprintf("rooms of %d, %d sessions that all talk, %d B", v.chat.Room, v.chat.Sessions, v.chat.Payload),
			About: fmt.Sprintf("Every session keeps %d of its own messages under way; the server publishes each to its room. "+
				"The cost of receiving is in the figures. The floor writes to a session once for all that it read in one turn of its loop; "+
				"a server that gathers more can be below it.", v.chat.Window),
			Cases: []testcase{{Run: v.chat.run}}, Table: costTable, Headline: cpuHeadline,
		},
		{
			Name: "paced",
			Title: fmt.Sprintf("%d deliveries a second, %d topics of %d sessions, %d B",
				paced.Rate, paced.Topics, paced.Each, paced.Payload),
			About: "An open loop: latency counts from when a publication was due, whether or not the server was able to take it then.",
			Cases: []testcase{{Run: paced.run}}, Table: latencyTable, Headline: latencyHeadline,
		},
		{
			Name:  "idle",
			Title: fmt.Sprintf("%d silent sessions", v.idle.Sessions),
			About: fmt.Sprintf("Memory of the server process, %d sessions to a topic, after a collection, less what it was before they came. "+
				"The kernel's buffers are not in it.", idleEach),
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: v.idle.run}}, Table: memoryTable, Headline: memoryHeadline,
		},
		{
			Name:   "connect",
			Title:  fmt.Sprintf("%d sessions dial, %d at a time", v.connect.Sessions, v.connect.UnderWay),
			About:  "The server subscribes each to one topic as soon as it is there. The cost is that from the handshake to the subscription.",
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: v.connect.run}}, Table: dialTable, Headline: dialHeadline,
		},
		{
			Name:  "storm",
			Title: fmt.Sprintf("%d clients dial at once, with a sign-in of %s", v.storm.Sessions, v.storm.Auth),
			About: "As after a restart. A client is served when it has the message that the server sends it after it has subscribed it; " +
				"p99 and max count from its dial.",
			Roles:  noFloor,
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: v.storm.run}}, Table: stormTable, Headline: servedHeadline,
		},
		{
			Name:   "burst-tls",
			Title:  "burst over TLS",
			About:  "As burst.",
			Roles:  noFloor,
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: overTLS(burst.run)}}, Table: costTable, Headline: cpuHeadline,
		},
		{
			Name:   "single-tls",
			Title:  "single over TLS",
			About:  "As single.",
			Roles:  noFloor,
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: overTLS(single.run)}}, Table: costTable, Headline: cpuHeadline,
		},
		{
			Name:   "idle-tls",
			Title:  fmt.Sprintf("%d silent sessions over TLS", v.idleTLS.Sessions),
			About:  "As idle.",
			Roles:  noFloor,
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: overTLS(v.idleTLS.run)}}, Table: memoryTable, Headline: memoryHeadline,
		},
		{
			Name:  "resume",
			Title: fmt.Sprintf("paced, while %d other clients come back, with %d missed publications each", v.resume.Clients, v.resume.Missed),
			About: "The latency of what was due before the last of them had everything. " +
				"The quiet p99 is that of the same server before they came.",
			Roles:  []server.Role{server.Subject},
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: v.resume.run}}, Table: resumeTable, Headline: latencyHeadline,
		},
		{
			Name:   "sessions",
			Title:  fmt.Sprintf("growth: one topic, bursts of %d, %d B", growthPublications, v.growthPayload),
			About:  "What a delivery costs with ever more sessions on the topic.",
			Rounds: v.longRounds,
			Cases:  sessionGrowth(sizes, v.growthPayload),
			Table:  growth(cpuColumn),
		},
		{
			Name: "manytopics",
			Title: fmt.Sprintf("growth: ever more topics of 10 sessions, %d sessions, bursts of %d for each, %d B",
				v.growthSessions, growthPublications, v.growthPayload),
			About:  "What a delivery costs with ever more topics, while sessions, publications and subscribers of a topic stay the same.",
			Rounds: v.longRounds,
			Cases:  topicGrowth(sizes, v.growthSessions, v.growthPayload),
			Table:  growth(cpuColumn),
		},
		{
			Name: "slow",
			Title: fmt.Sprintf("one session of %d stops reading, %d deliveries a second, %d B",
				v.slow.Sessions+1, v.slow.Rate, v.slow.Payload),
			About:  "The latency of the sessions that read, and what became of the one that does not.",
			Rounds: v.longRounds,
			Cases:  []testcase{{Run: v.slow.run}}, Table: slowTable, Headline: latencyHeadline,
		},
	}, nil
}
