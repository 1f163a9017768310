package main

import (
	"fmt"

	"github.com/livetopic/livetopic/bench/server"
)

// The headlines. Less is better in all of them.
var (
	cpuHeadline     = headline{"server CPU ns/delivery", cpuOf, wholeText}
	latencyHeadline = headline{"latency p99, µs", p99Of, microsText}
	dialHeadline    = headline{"server CPU µs/dial", cpuOf, microsText}
	servedHeadline  = headline{"all served, ms", servedOf, millisText}
	memoryHeadline  = headline{"resident KB/session", sessionRSSOf, kiloText}
)

func sessionRSSOf(f figures) float64   { return f.SessionRSS }
func sessionHeapOf(f figures) float64  { return f.SessionHeap }
func sessionStackOf(f figures) float64 { return f.SessionStack }

// costTable is for all that is counted by the delivery.
var costTable = comparison(
	column{"CPU ns/delivery", cpuOf, wholeText},
	column{"deliveries/s", rateOf, wholeText},
	column{"allocs/delivery", allocsOf, allocsText},
	column{"RSS MB", rssOf, megabyteText},
)

var latencyTable = comparison(
	column{"p99 µs", p99Of, microsText},
	column{"p50 µs", p50Of, microsText},
	column{"p99.9 µs", p999Of, microsText},
	column{"CPU ns/delivery", cpuOf, wholeText},
)

var memoryTable = comparison(
	column{"RSS KB/session", sessionRSSOf, kiloText},
	column{"heap KB", sessionHeapOf, kiloText},
	column{"stack KB", sessionStackOf, kiloText},
	column{"RSS MB in all", rssOf, megabyteText},
)

var dialTable = comparison(
	column{"CPU µs/dial", cpuOf, microsText},
	column{"dials/s", rateOf, wholeText},
	column{"allocs/dial", allocsOf, wholeText},
	column{"RSS MB", rssOf, megabyteText},
)

var stormTable = comparison(
	column{"all served ms", servedOf, millisText},
	column{"p99 ms", p99Of, millisText},
	column{"max ms", maxOf, millisText},
	column{"CPU µs/dial", cpuOf, microsText},
	column{"failures", failuresOf, wholeText},
)

var resumeTable = comparison(
	column{"p99 µs", p99Of, microsText},
	column{"quiet p99 µs", quietOf, microsText},
	column{"p50 µs", p50Of, microsText},
	column{"max µs", maxOf, microsText},
	column{"all resumed ms", servedOf, millisText},
)

var slowTable = withNotes("the slow session", comparison(
	column{"p99 µs", p99Of, microsText},
	column{"p50 µs", p50Of, microsText},
	column{"max µs", maxOf, microsText},
))

// noFloor are the servers that sign in and speak TLS.
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
			Table:  growth(column{"CPU ns/delivery", cpuOf, wholeText}),
		},
		{
			Name: "manytopics",
			Title: fmt.Sprintf("growth: ever more topics of 10 sessions, %d sessions, bursts of %d for each, %d B",
				v.growthSessions, growthPublications, v.growthPayload),
			About:  "What a delivery costs with ever more topics, while sessions, publications and subscribers of a topic stay the same.",
			Rounds: v.longRounds,
			Cases:  topicGrowth(sizes, v.growthSessions, v.growthPayload),
			Table:  growth(column{"CPU ns/delivery", cpuOf, wholeText}),
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
