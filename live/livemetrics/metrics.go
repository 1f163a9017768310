package livemetrics

import "github.com/livetopic/livetopic/live"

// These tables say which metrics there are, besides live_ready, live_draining, live_nodes and
// live_write_frames. Their order is that of docs/operations.md.

// gauges are figures that rise and fall.
var gauges = []struct {
	name, help string
	value      func(*live.Stats) int
}{
	{"sessions", "Open sessions.", func(st *live.Stats) int { return st.Sessions }},
	{"topics", "Topics with a subscriber at this server.", func(st *live.Stats) int { return st.Topics }},
	{"subscriptions", "Subscriptions of all sessions to all topics.", func(st *live.Stats) int { return st.Subscriptions }},
	{"auths_waiting", "Handshakes that wait for their turn to call OnAuth.", func(st *live.Stats) int { return st.AuthsWaiting }},
	{"queued_messages", "Frames that wait for the clients, or are being written.", func(st *live.Stats) int { return st.WaitingMessages }},
	{"queued_bytes", "Bytes of the frames that wait for the clients, or are being written.", func(st *live.Stats) int { return st.WaitingBytes }},
	{"subscriptions_catching_up", "Subscriptions that read from history, because their client was away or reads too slowly.", func(st *live.Stats) int { return st.CatchingUp }},
	{"present", "How many times a session of this server is present in a topic.", func(st *live.Stats) int { return st.Present }},
	{"presence_peers", "Other servers that have told who is present at them.", func(st *live.Stats) int { return st.Peers }},
}

// counters are figures that only rise.
var counters = []struct {
	name, help string
	value      func(*live.Stats) uint64
}{
	{"sessions_accepted_total", "Handshakes that became sessions.", func(st *live.Stats) uint64 { return st.Accepted }},
	{"subscribes_total", "Subscriptions that have begun.", func(st *live.Stats) uint64 { return st.Subscribed }},
	{"publications_total", "Publications that this server has made.", func(st *live.Stats) uint64 { return st.Published }},
	{"publications_failed_total", "Publications for which the broker returned an error.", func(st *live.Stats) uint64 { return st.PublishFailed }},
	{"publications_rate_limited_total", "Publications of clients that PublishRate refused.", func(st *live.Stats) uint64 { return st.RateLimited }},
	{"deliveries_total", "Publications that were queued for a session when they came, counted for each session.", func(st *live.Stats) uint64 { return st.Delivered }},
	{"sent_bytes_total", "Bytes that the connections took, before TLS.", func(st *live.Stats) uint64 { return st.BytesSent }},
	{"messages_received_total", "Messages from clients.", func(st *live.Stats) uint64 { return st.Received }},
	{"received_bytes_total", "Bytes of the messages from clients, as they came.", func(st *live.Stats) uint64 { return st.BytesReceived }},
	{"messages_malformed_total", "Invalid messages from clients.", func(st *live.Stats) uint64 { return st.Malformed }},
	{"operations_refused_total", "Operations of clients that were answered with an error of the client, such as forbidden.", func(st *live.Stats) uint64 { return st.OperationsRefused }},
	{"operations_failed_total", "Operations of clients that were answered with internal or unavailable.", func(st *live.Stats) uint64 { return st.OperationsFailed }},
	{"gaps_total", "Gaps that were announced, to all subscribers of a topic or to one.", func(st *live.Stats) uint64 { return st.Gaps }},
	{"snapshots_total", "Calls of TopicOptions.Snapshot.", func(st *live.Stats) uint64 { return st.Snapshots }},
	{"snapshots_failed_total", "Calls of TopicOptions.Snapshot that returned no state.", func(st *live.Stats) uint64 { return st.SnapshotsFailed }},
	{"presence_junk_total", "Broadcasts about presence that could not be understood.", func(st *live.Stats) uint64 { return st.PresenceJunk }},
	{"panics_total", "Callbacks of the application that panicked.", func(st *live.Stats) uint64 { return st.Panics }},
}

// labelledCount is the count of one value of a label.
type labelledCount struct {
	label string
	count uint64
}

// labelledCounters are counters with a label.
var labelledCounters = []struct {
	name, help, label string
	values            func(*live.Stats) []labelledCount
}{
	{"handshakes_refused_total", "Handshakes that were refused, by reason.", "reason", func(st *live.Stats) []labelledCount {
		r := &st.RefusedFor
		return []labelledCount{
			{"bad_handshake", r.BadHandshake},
			{"origin", r.Origin},
			{"draining", r.Draining},
			{"max_sessions", r.TooManySessions},
			{"max_sessions_per_user", r.TooManyOfUser},
			{"auth_queue_full", r.QueueFull},
			{"auth_queue_timeout", r.QueueTimeout},
			{"auth", r.Auth},
			{"auth_timeout", r.AuthTimeout},
			{"panic", r.Panic},
			{"gone", r.Gone},
		}
	}},
	{"sessions_closed_total", "Sessions that have ended, by reason.", "reason", func(st *live.Stats) []labelledCount {
		c := &st.ClosedFor
		return []labelledCount{
			{"client", c.Client},
			{"lost", c.Lost},
			{"protocol", c.Protocol},
			{"too_big", c.TooBig},
			{"application", c.Application},
			{"user", c.User},
			{"expired", c.Expired},
			{"refused", c.Refused},
			{"shutdown", c.Shutdown},
			{"age", c.Age},
			{"queue_full", c.QueueFull},
			{"user_bytes", c.UserBytes},
			{"replaced", c.Replaced},
			{"ping_timeout", c.PingTimeout},
			{"write_failed", c.WriteFailed},
			{"panic", c.Panic},
		}
	}},
	{"resumes_total", "Subscriptions from a position, by whether the history had everything since.", "result", func(st *live.Stats) []labelledCount {
		return []labelledCount{
			{"recovered", st.Recovered},
			{"lost", st.NotRecovered},
		}
	}},
	{"publications_dropped_total", "Publications that were dropped because a client or a listener is too slow, by the rule.", "policy", func(st *live.Stats) []labelledCount {
		return []labelledCount{
			{"oldest", st.DroppedOldest},
			{"latest", st.DroppedLatest},
			{"listener", st.ListenerDropped},
		}
	}},
}

// times are histograms of durations.
var times = []struct {
	name, help string
	value      func(*live.Stats) live.Durations
}{
	{"auth_seconds", "How long the calls of OnAuth took.", func(st *live.Stats) live.Durations { return st.AuthTime }},
	{"publish_seconds", "How long the broker took for a publication. Not measured for a broker that serves one process only.", func(st *live.Stats) live.Durations { return st.PublishTime }},
	{"delivery_seconds", "From a publication's arrival from the broker until a connection took it. Measured for at most 20 publications a second.", func(st *live.Stats) live.Durations { return st.DeliveryTime }},
	{"request_seconds", "How long the calls of OnRequest took.", func(st *live.Stats) live.Durations { return st.RequestTime }},
	{"snapshot_seconds", "How long the calls of TopicOptions.Snapshot took.", func(st *live.Stats) live.Durations { return st.SnapshotTime }},
}
