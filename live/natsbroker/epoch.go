package natsbroker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/live/broker"
	"github.com/livetopic/livetopic/live/internal/clock"
)

// A stream that has lost its end gives the sequences of the lost messages to other
// publications. A client that saw the lost ones would not notice. So a stream gets another
// epoch when it has lost messages, or may have:
//
//   - It has less than was seen of it, or another message at a sequence that was seen. Either
//     this process has seen that, or a process before it, which has left a note: see notes.
//   - It gave a sequence twice.
//   - Its machine lost power before all acknowledged messages were on the disk.
//   - It lacks messages in its middle that it had: one of its files was damaged.
//   - It is on a NATS elsewhere that is one server and has restarted, or on a cluster where it
//     has another leader, and no process is left that saw the stream before.
//
// The epoch is in the metadata of the stream, since all nodes must agree on it.

const (
	metaEpoch  = "livetopic-epoch"  // differs for each history of the stream
	metaServer = "livetopic-server" // the NATS server's process or the leader that last had the whole stream; see serverStart
)

var errEndLost = errors.New("natsbroker: a stream has lost its end")

// proof is what a process knows of a stream's end in addition to the greatest sequence. It is
// guarded by stream.mu.
type proof struct {
	timedSequence  uint64     // the greatest sequence whose time is known; 0: there is none
	timedAt        time.Time  // when that message was stored
	mustCompare    bool       // the stream must be compared before new messages are noted
	sequenceReused bool       // a sequence was given twice
	loss           *lossCheck // answers with less than was seen; nil: there was none
	setBack        *lossCheck // answers of an epoch that has ended; nil: there was none
	restart        restart    // the restart or election at NATS that nobody has vouched for
	endedEpochs    []string   // epochs that have ended, newest last
	endedAt        time.Time  // when the newest of them ended
}

// saw notes a sequence and its time, unless the stream must first be compared.
func (p *proof) saw(sequence uint64, at time.Time) {
	if sequence > p.timedSequence && !at.IsZero() && !p.mustCompare {
		p.timedSequence, p.timedAt = sequence, at
	}
}

// requireComparison makes the next user of the stream's state compare the stream first.
func (st *stream) requireComparison() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.expiredAt = time.Now()
	st.proof.mustCompare = true
}

// compareStreams compares the streams after the connection to NATS was down, even if no client
// asks for them. A later process can only believe what this comparison leaves in the notes and
// the metadata: see compareServer. While the connection is up, a stream that does not answer is
// asked again.
func (b *Broker) compareStreams() {
	since := time.Now()
	todo := b.streams.every()
	for wait := compareFirst; b.nc.IsConnected(); wait = min(2*wait, compareLast) {
		todo = slices.DeleteFunc(todo, func(st *stream) bool { return st.comparedSince(b.ctx, since) })
		if len(todo) == 0 || !sleep(b.ctx, wait) {
			return
		}
	}
}

// compareFirst and compareLast bound the pauses between two attempts to compare a stream. A NATS
// server that starts needs some tenths of a second for its streams. A cluster without a leader
// may need minutes, and one question every two seconds does not disturb it.
const compareFirst, compareLast = 100 * time.Millisecond, 2 * time.Second

// comparedSince compares a stream. It reports false if NATS did not answer. A stream that was
// never found is left out: whoever finds it compares it.
func (st *stream) comparedSince(ctx context.Context, since time.Time) bool {
	if st.newestSeen().epoch == "" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout) // the other streams wait meanwhile
	defer cancel()
	_, err := st.stateSince(ctx, since)
	return err == nil || !errors.Is(unavailable(err), broker.ErrUnavailable)
}

// givenTwice notes that a sequence of an epoch was given to two publications.
func (st *stream) givenTwice(epoch string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.found.Store(false) // it may be a stream of the same name that is not ours
	st.expiredAt = time.Now()
	if st.state.epoch == epoch { // a late call for an ended epoch must not undo what was found
		st.proof.sequenceReused = true
	}
}

// requireComparison calls requireComparison for all streams.
func (t *streamTable) requireComparison() {
	for _, st := range t.every() {
		st.requireComparison()
	}
}

// epochOf returns the epoch of a stream. A stream that is deleted and made again has another
// epoch, even with the same name.
func (st *stream) epochOf(info *jetstream.StreamInfo) string {
	h := fnv.New32a()
	h.Write([]byte(st.config.Name))
	epoch := strconv.FormatInt(info.Created.UnixNano(), 36) + "-" + strconv.FormatUint(uint64(h.Sum32()), 36)
	if token := info.Config.Metadata[metaEpoch]; token != "" {
		epoch += "-" + token
	}
	return epoch
}

// compare compares a stream with what is known of it, and gives it another epoch if it has lost
// messages. seen was taken before info was asked for, and compare sets its time to when the
// result was asked for. made says that the stream is new. While the result is uncertain, the
// error wraps live.ErrUnavailable.
func (st *stream) compare(ctx context.Context, info *jetstream.StreamInfo, seen *seen, made bool) (*jetstream.StreamInfo, error) {
	if err := st.comparing.take(ctx); err != nil {
		return nil, err
	}
	defer st.comparing.leave()
	n, why, err := st.compareNote(ctx, info, made)
	if err == nil && why == "" {
		why, err = st.compareProof(ctx, info, *seen)
	}
	if err == nil && why == "" && !made {
		why, err = st.compareServer(ctx, info)
	}
	if err != nil {
		return nil, err
	}
	if why != "" {
		seen.askedAt = time.Now() // what was asked for before this is of the epoch that ends
		if info, err = st.endEpoch(ctx, info, why); err != nil {
			return nil, err
		}
	} else if info, err = st.noteServer(ctx, info); err != nil {
		return nil, err
	}
	epoch := st.epochOf(info)
	st.onlyHere.Store(n != nil && st.isOnlyHere(info))
	switch {
	case n == nil:
	case epoch == st.noteEpoch:
		n.counted(st.countOf(info))
	case why != "" || seen.askedAt.After(st.noteBegan):
		// The epoch has ended, here or at another node, or the stream was made again. From here
		// on the note belongs to this epoch. A greater sequence of another epoch would look like
		// a loss to the next process.
		first := note{sequence: info.State.LastSeq}
		first.countedTo, first.deleted = st.countOf(info)
		if err := n.begin(first); err != nil {
			return nil, fmt.Errorf("the note of its end: %w", err)
		}
		st.noteFile.Store(n)
		st.noteEpoch, st.noteBegan = epoch, time.Now()
	}
	return info, nil
}

// compareNote compares a stream with the note of a process before this one. why says what the
// stream has lost; "": nothing. n is the note; nil: this broker has no notes.
func (st *stream) compareNote(ctx context.Context, info *jetstream.StreamInfo, made bool) (n *noteFile, why string, err error) {
	if st.broker.server == nil || st.broker.server.notes() == nil {
		return nil, "", nil
	}
	if n := st.noteFile.Load(); n != nil {
		return n, "", nil
	}
	n, void, err := st.broker.server.notes().open(st.config.Name)
	if err != nil || made {
		return n, "", err
	}
	if void {
		return n, "the server did not stop before its machine did, or the files are an older copy", nil
	}
	known, state := n.known(), info.State
	if state.LastSeq < known.sequence {
		why, err = st.confirmLoss(info, known.sequence)
		return n, why, err
	}
	if allowed := known.deleted + (max(state.LastSeq, known.countedTo) - known.countedTo); known.sequence > 0 && st.isOnlyHere(info) && uint64(state.NumDeleted) > allowed {
		return n, fmt.Sprintf("it lacks %d messages, and had lacked %d: its files are damaged", state.NumDeleted, known.deleted), nil
	}
	if known.timedSequence > 0 {
		if other, err := st.isOther(ctx, info, known.timedSequence, time.Unix(0, known.timedAt)); other || err != nil {
			return n, fmt.Sprintf("it has another message at %d", known.timedSequence), err
		}
	}
	return n, "", nil
}

// compareProof compares a stream with what this process has seen of it. why says what the
// stream has lost; "": nothing.
func (st *stream) compareProof(ctx context.Context, info *jetstream.StreamInfo, seen seen) (why string, err error) {
	epoch := st.epochOf(info)
	st.mu.Lock()
	known, same := st.proof, st.state.epoch == epoch && seen.epoch == epoch
	if !same || seen.sequence <= info.State.LastSeq {
		st.proof.loss = nil
	}
	if !slices.Contains(known.endedEpochs, epoch) {
		st.proof.setBack = nil
	}
	st.mu.Unlock()
	switch {
	case slices.Contains(known.endedEpochs, epoch) && seen.askedAt.Before(known.endedAt):
		return "", fmt.Errorf("%w: its epoch has just ended", broker.ErrUnavailable)
	case slices.Contains(known.endedEpochs, epoch):
		return st.confirmSetBack(info)
	case !same:
		return "", nil
	case known.sequenceReused:
		return "it gave a sequence twice", nil
	case seen.sequence > info.State.LastSeq:
		return st.confirmLoss(info, seen.sequence)
	case !known.mustCompare:
		return "", nil
	}
	if known.timedSequence > 0 {
		if other, err := st.isOther(ctx, info, known.timedSequence, known.timedAt); err != nil || other {
			return fmt.Sprintf("it has another message at %d", known.timedSequence), err
		}
	}
	st.mu.Lock()
	if seen.askedAt.After(st.expiredAt) { // otherwise another comparison was required meanwhile
		st.proof.mustCompare = false
	}
	st.mu.Unlock()
	return "", nil
}

// confirmLoss says why a stream that has less than was seen has lost its end. In a cluster the
// answer may come from a leader that was cut off and is back, so there a loss must last: see
// lossCheck.
func (st *stream) confirmLoss(info *jetstream.StreamInfo, seen uint64) (why string, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.proof.loss == nil {
		st.proof.loss = new(lossCheck)
	}
	if len(replicas(info)) > 0 && !st.proof.loss.sawLess() {
		return "", fmt.Errorf("%w: it ends at %d, and had %d", broker.ErrUnavailable, info.State.LastSeq, seen)
	}
	return fmt.Sprintf("it ends at %d, and had %d", info.State.LastSeq, seen), nil
}

// confirmSetBack says why a stream has an epoch that had ended. In a cluster the answer may come
// from a leader that was just elected and has not read the newest metadata yet, so there it must
// last: see lossCheck.
func (st *stream) confirmSetBack(info *jetstream.StreamInfo) (why string, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.proof.setBack == nil {
		st.proof.setBack = new(lossCheck)
	}
	if len(replicas(info)) > 0 && !st.proof.setBack.sawLess() {
		return "", fmt.Errorf("%w: its metadata has an epoch that had ended", broker.ErrUnavailable)
	}
	return "its metadata has an epoch that had ended", nil
}

// countEvery is how often a server counts the missing messages of the streams that only it has.
// If a file is damaged less than this time after the last publication, the loss is found only if
// it is larger than the number of messages that were not yet counted. If the process is killed
// less than this time after messages were deleted on purpose, they look like a loss, and clients
// are told of a gap.
const countEvery = time.Second

// countsMessages reports whether this server may have streams that no other server has.
func (b *Broker) countsMessages() bool { return b.server != nil && b.server.notes() != nil }

// countMessages updates the counts in the notes, until Close.
func (b *Broker) countMessages() {
	for sleep(b.ctx, countEvery) {
		b.countOnce(b.ctx)
	}
}

// countOnce counts the missing messages of each stream that only this server has. Messages may
// have been deleted even if nothing was published.
func (b *Broker) countOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, countEvery)
	defer cancel()
	for _, st := range b.streams.every() {
		if st.onlyHere.Load() {
			st.stateSince(ctx, time.Now()) // also compares and updates the note
		}
	}
}

// compareAtEnd brings the notes and the metadata up to date, so that the next process finds no
// change that this one has not seen.
func (b *Broker) compareAtEnd(ctx context.Context) {
	if b.server != nil {
		b.countOnce(ctx)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastCompare)
	defer cancel()
	for _, st := range b.streams.every() {
		if st.found.Load() {
			st.stateSince(ctx, time.Now())
		}
	}
}

// lastCompare bounds what a Close waits for the streams of a NATS elsewhere. They answer within
// milliseconds, unless they have no leader.
const lastCompare = time.Second

// countOf returns the last sequence of a stream, and how many messages before it are missing. It
// returns zeros for a stream that other servers have too, or instead. They may delete messages
// while this server is down, so a count would prove nothing.
func (st *stream) countOf(info *jetstream.StreamInfo) (last, deleted uint64) {
	if !st.isOnlyHere(info) {
		return 0, 0
	}
	return info.State.LastSeq, uint64(info.State.NumDeleted)
}

// isOnlyHere reports whether the embedded server has the only copy of a stream.
func (st *stream) isOnlyHere(info *jetstream.StreamInfo) bool {
	server := st.broker.server
	if server == nil || len(replicas(info)) > 0 || info.Config.Replicas > 1 {
		return false
	}
	return info.Cluster == nil || info.Cluster.Leader == server.store.node
}

func replicas(info *jetstream.StreamInfo) []*jetstream.PeerInfo {
	if info.Cluster == nil {
		return nil
	}
	return info.Cluster.Replicas
}

// looksBack is how many messages before a missing message are searched for a message that is
// newer than it.
const looksBack = 64

// isOther reports whether the stream has another message than the one that was seen at a
// sequence. If that message is missing, the messages just before it tell: they are newer than it if
// they were stored after a loss. They cannot tell if the server's clock was set back among them, or
// since. Then isOther reports true as well: a gap too many is better than a hole.
func (st *stream) isOther(ctx context.Context, info *jetstream.StreamInfo, sequence uint64, at time.Time) (bool, error) {
	m, err := st.leaderGet(ctx, getRequest{Sequence: sequence})
	if err != nil || m != nil {
		return m != nil && !m.Time.Equal(at), err
	}
	if len(replicas(info)) > 0 {
		return false, nil // one leader's clock may be behind the clock of another
	}
	if info.TimeStamp.Before(at) && !info.TimeStamp.IsZero() {
		return true, nil
	}
	var before time.Time
	from := max(sequence, looksBack) - looksBack + 1
	for {
		m, err := st.leaderGet(ctx, getRequest{Sequence: from, NextFor: st.subject(">")})
		if err != nil || m == nil || m.Sequence > sequence {
			return false, err
		}
		if m.Time.After(at) || m.Time.Before(before) {
			return true, nil
		}
		before, from = m.Time, m.Sequence+1
	}
}

// compareServer says that nobody can tell whether a stream on a NATS elsewhere is whole. This
// process has not seen the stream before, and since somebody last had the whole stream, the server
// has restarted, or the stream has another leader. Perhaps nothing is lost, but the servers may all
// have lost power. So clients are told of a gap, perhaps without need, when the leader changes while
// no instance of the application runs. Other instances are asked, and have the time othersWithin to
// note that the stream is whole.
func (st *stream) compareServer(ctx context.Context, info *jetstream.StreamInfo) (why string, err error) {
	start, before := st.serverStart(info), info.Config.Metadata[metaServer]
	if start == "" || st.found.Load() || before == "" || before == start {
		return "", nil
	}
	st.mu.Lock()
	age := st.proof.restart.age(start)
	st.mu.Unlock()
	if age >= othersWithin {
		return "NATS was restarted or has elected another leader, and no process is left that knew where the stream ended", nil
	}
	if err := st.broker.broadcast(ctx, broadcastCompare, nil); err != nil {
		return "", err
	}
	return "", fmt.Errorf("%w: NATS was restarted or has elected another leader, and other instances may still say that the stream is whole", broker.ErrUnavailable)
}

// askedToCompare handles the broadcast of an instance that wants to know whether its streams are
// whole.
func (b *Broker) askedToCompare(from string, _ []byte) {
	if from == b.name {
		return
	}
	select {
	case b.compareNow <- struct{}{}:
	default: // a comparison is due already
	}
}

// othersWithin is how long an instance that has not seen a stream waits for the instances that
// have. These try to connect to a restarted NATS ten times a second.
const othersWithin = time.Second

// restart is a start of a NATS server, or the election of a leader, that an instance has noticed
// and nobody has vouched for. The zero value has noticed none.
type restart struct {
	start     string // what serverStart returns
	noticedAt int64  // on the clock of package clock
}

// age returns how long ago a start was first noticed. Another start replaces it.
func (r *restart) age(start string) time.Duration {
	if r.start != start {
		r.start, r.noticedAt = start, clock.Now()
	}
	return time.Duration(clock.Now() - r.noticedAt)
}

// serverStart returns what tells whether a stream on a NATS elsewhere may have lost its end since
// somebody saw it. For a server that is alone it is the ID of its process. For a cluster it is when
// the stream's leader was elected: as long as one node leads, it has all that was acknowledged.
// "": nobody can tell, or notes beside the streams tell it better.
func (st *stream) serverStart(info *jetstream.StreamInfo) string {
	nc := st.broker.nc
	if st.broker.server != nil {
		return ""
	}
	if c := info.Cluster; c != nil && c.LeaderSince != nil {
		return c.Leader + " since " + c.LeaderSince.UTC().Format(time.RFC3339Nano)
	}
	if nc.ConnectedClusterName() != "" || len(replicas(info)) > 0 {
		return "" // the only copy in a cluster, or an old NATS server
	}
	if info.Cluster != nil && info.Cluster.Leader != nc.ConnectedServerName() {
		return "" // the stream is behind a leaf node
	}
	return nc.ConnectedServerId()
}

// markServer does the work of noteServer for a stream that is to be made.
func (st *stream) markServer(c *jetstream.StreamConfig) {
	if start := st.serverStart(&jetstream.StreamInfo{}); start != "" {
		c.Metadata = maps.Clone(c.Metadata) // not nil, since it has our mark
		c.Metadata[metaServer] = start
	}
}

// noteServer writes into the metadata which process of its NATS server, or which leader, has the
// whole stream.
func (st *stream) noteServer(ctx context.Context, info *jetstream.StreamInfo) (*jetstream.StreamInfo, error) {
	start := st.serverStart(info)
	if start == "" || info.Config.Metadata[metaServer] == start {
		return info, nil
	}
	return st.setMeta(ctx, info, map[string]string{metaServer: start})
}

// setMeta changes the metadata of a stream that was compared. JetStream has no change that depends
// on what was read, so another instance may write at the same time. setMeta reads the stream again
// just before it writes, and writes nothing if the epoch is another by now. If two instances still
// write at once, the later one may bring back the epoch that the earlier one has ended. The
// earlier one finds that within compareEvery, and ends the epoch again.
func (st *stream) setMeta(ctx context.Context, info *jetstream.StreamInfo, meta map[string]string) (*jetstream.StreamInfo, error) {
	there, err := st.broker.js.Stream(ctx, st.config.Name)
	if err != nil {
		return nil, err
	}
	now := there.CachedInfo()
	if err := st.checkOwner(now.Config); err != nil {
		return nil, err
	}
	if st.epochOf(now) != st.epochOf(info) {
		return nil, fmt.Errorf("%w: another instance has just given it another epoch", broker.ErrUnavailable)
	}
	config := now.Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = make(map[string]string)
	}
	maps.Copy(config.Metadata, meta)
	if there, err = st.broker.js.UpdateStream(ctx, config); err != nil {
		return nil, err
	}
	return there.CachedInfo(), nil
}

// compareEvery is how often a broker whose streams others change too compares them, even if no
// client asks for them. If all instances are killed less than this time after a NATS elsewhere has
// elected another leader, clients are told of a gap.
const compareEvery = 10 * time.Second

// compareRegularly compares the streams until Close: every compareEvery, and when another instance
// asks for it. If a stream does not answer, or its answer must last to be believed, the streams are
// compared again soon: see lossCheck.
func (b *Broker) compareRegularly() {
	for wait := compareEvery; ; {
		var since time.Time
		select {
		case <-b.ctx.Done():
			return
		case <-b.compareNow:
			since = time.Now()
		case <-time.After(wait):
			since = time.Now().Add(-compareEvery)
		}
		wait = compareEvery
		for _, st := range b.streams.every() {
			if !st.comparedSince(b.ctx, since) {
				wait = compareLast
			}
		}
	}
}

// maxEnded bounds how many ended epochs a process remembers.
const maxEnded = 16

// beginEpoch forgets what is known of an epoch that has ended, here or at another node; "": there
// was none. The process remembers its name, since an answer that is out of date must not bring it
// back. asked is when the leader was asked for the state of the new epoch. st.mu is held.
func (st *stream) beginEpoch(ended string, asked time.Time) {
	all, endedAt := st.proof.endedEpochs, st.proof.endedAt
	if ended != "" && !slices.Contains(all, ended) {
		all, endedAt = append(slices.Clone(all), ended), time.Now()
	}
	st.proof = proof{
		mustCompare: st.proof.mustCompare && !asked.After(st.expiredAt),
		endedEpochs: all[max(len(all)-maxEnded, 0):],
		endedAt:     endedAt,
	}
	st.newestSequence = 0
}

// endEpoch gives a stream another epoch, and tells the live server and the other nodes.
func (st *stream) endEpoch(ctx context.Context, info *jetstream.StreamInfo, why string) (*jetstream.StreamInfo, error) {
	before, asked := st.epochOf(info), time.Now()
	meta := map[string]string{metaEpoch: rand.Text()[:epochLength]}
	if start := st.serverStart(info); start != "" {
		meta[metaServer] = start
	}
	info, err := st.setMeta(ctx, info, meta)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	st.beginEpoch(before, asked)
	st.mu.Unlock()
	b := st.broker
	b.logger.Warn("natsbroker: a stream may have lost publications; clients that resume are told of a gap",
		"stream", st.config.Name, "why", why, "last", info.State.LastSeq)
	b.lost("", errEndLost)
	b.broadcast(ctx, broadcastEpoch, []byte(st.config.Name)) // a node that does not hear it asks within a second
	return info, nil
}

// epochLength is the length of the part that tells the epochs of one stream apart: 40 bits.
const epochLength = 8

// epochEnded handles the broadcast of another node that a stream has another epoch.
func (b *Broker) epochEnded(from string, name []byte) {
	if from == b.name {
		return
	}
	for _, st := range b.streams.every() {
		if st.config.Name == string(name) {
			st.expireState()
		}
	}
	b.lost("", errEndLost)
}
