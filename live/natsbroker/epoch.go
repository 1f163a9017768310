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

	"github.com/livetopic/livetopic/live"
)

// A stream that has lost its end gives the numbers of what it lost to other publications, and
// a client that saw the former would not notice. So it gets another epoch, wherever it is
// found, or may be, that something was lost:
//
//   - It has less than was seen of it, or has another message at a sequence that was seen: by
//     this process, while it was connected or before NATS was away, or by one before it, which
//     left a note (see ends).
//   - A sequence was given twice.
//   - Its machine lost power, and what was acknowledged was not on the disk yet.
//   - It lacks messages in its middle that it had: a file of it was damaged.
//   - Its NATS, which is alone, has started anew, and nobody who saw the stream before is left.
//
// The epoch is in the stream's metadata, since all nodes must agree on it.

const (
	metaEpoch  = "livetopic-epoch"  // differs from that of each history before
	metaServer = "livetopic-server" // the start of the NATS server in which the stream was last seen whole
)

// broadcastEpoch is the kind of the broadcast that says that a stream has another epoch.
const broadcastEpoch = "natsbroker.epoch"

var errEndLost = errors.New("natsbroker: a stream has lost its end")

// proof is what a process knows of a stream's end beside its greatest sequence; it is guarded
// by stream.mu.
type proof struct {
	timedSequence  uint64     // the greatest sequence of which the time is known; 0: of none
	timedAt        time.Time  // when that was stored
	mustCompare    bool       // to be compared with the stream before anything else is believed
	sequenceReused bool       // a sequence was given twice
	loss           *lossCheck // answers that have less than was seen; nil: none yet
	endedEpochs    []string   // epochs that are known to have ended, newest last
	endedAt        time.Time  // when the newest of them did
}

// saw takes note of a sequence, unless what is known must be compared first.
func (p *proof) saw(sequence uint64, at time.Time) {
	if sequence > p.timedSequence && !at.IsZero() && !p.mustCompare {
		p.timedSequence, p.timedAt = sequence, at
	}
}

// requireComparison has the stream compared with what is known of it before it is relied upon again.
func (st *stream) requireComparison() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.state.askedAt = time.Time{}
	st.proof.mustCompare = true
}

// compareStreams compares the streams with what is known of them after NATS was away, whether
// somebody asks for them or not: a process that comes later can only believe what it finds
// noted. See compareServer.
func (b *Broker) compareStreams() {
	for _, st := range b.streams.every() {
		if st.found.Load() {
			ctx, cancel := context.WithTimeout(b.ctx, b.opts.PublishTimeout)
			st.stateSince(ctx, time.Now())
			cancel()
		}
	}
}

// givenTwice says that a sequence of an epoch was given to two publications.
func (st *stream) givenTwice(epoch string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.found.Store(false) // it may be another of that name, and not ours
	st.state.askedAt = time.Time{}
	st.proof.sequenceReused = st.state.epoch == epoch
}

// requireComparison has all streams compared.
func (t *streamTable) requireComparison() {
	for _, st := range t.every() {
		st.requireComparison()
	}
}

// epochOf returns the epoch of a stream's life. A stream that is deleted and made again is
// another, also with the same name.
func (st *stream) epochOf(info *jetstream.StreamInfo) string {
	h := fnv.New32a()
	h.Write([]byte(st.config.Name))
	epoch := strconv.FormatInt(info.Created.UnixNano(), 36) + "-" + strconv.FormatUint(uint64(h.Sum32()), 36)
	if token := info.Config.Metadata[metaEpoch]; token != "" {
		epoch += "-" + token
	}
	return epoch
}

// compare compares a stream with what is known of it, and gives it another epoch if it has
// lost something. seen is what was seen before it was asked for; made: it was made just now.
// The error wraps live.ErrUnavailable as long as it is not clear.
func (st *stream) compare(ctx context.Context, info *jetstream.StreamInfo, seen seen, made bool) (*jetstream.StreamInfo, error) {
	st.comparing.Lock()
	defer st.comparing.Unlock()
	n, why, err := st.compareNote(ctx, info, made)
	if err == nil && why == "" {
		why, err = st.compareProof(ctx, info, seen)
	}
	if err == nil && why == "" && !made {
		why = st.compareServer(info)
	}
	if err != nil {
		return nil, err
	}
	if why != "" {
		if info, err = st.endEpoch(ctx, info, why); err != nil {
			return nil, err
		}
	} else if info, err = st.noteServer(ctx, info); err != nil {
		return nil, err
	}
	if n != nil && (why != "" || st.noteFile.Load() == nil) {
		// From here on the note is of this epoch.
		if err := n.begin(note{sequence: info.State.LastSeq, countedTo: info.State.LastSeq, deleted: uint64(info.State.NumDeleted)}); err != nil {
			return nil, fmt.Errorf("note of its end: %w", err)
		}
		st.noteFile.Store(n)
	} else if n != nil {
		n.counted(info.State.LastSeq, uint64(info.State.NumDeleted))
	}
	return info, nil
}

// compareNote compares a stream with the note that a process before this one has left. It
// returns the stream's note; nil: there are no notes here.
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
		return n, "it was not stopped before the machine was, or its files were brought back", nil
	}
	known, state := n.known(), info.State
	if state.LastSeq < known.sequence {
		why, err = st.confirmLoss(info, known.sequence)
		return n, why, err
	}
	if allowed := known.deleted + (max(state.LastSeq, known.countedTo) - known.countedTo); known.sequence > 0 && len(replicas(info)) == 0 && uint64(state.NumDeleted) > allowed {
		return n, fmt.Sprintf("it lacks %d messages, and had lacked %d: its files are damaged", state.NumDeleted, known.deleted), nil
	}
	if known.timedSequence > 0 {
		if other, err := st.isOther(ctx, info, known.timedSequence, time.Unix(0, known.timedAt)); other || err != nil {
			return n, fmt.Sprintf("it has another message at %d", known.timedSequence), err
		}
	}
	return n, "", nil
}

// compareProof compares a stream with what this process has seen of it.
func (st *stream) compareProof(ctx context.Context, info *jetstream.StreamInfo, seen seen) (why string, err error) {
	epoch := st.epochOf(info)
	st.mu.Lock()
	known, same := st.proof, st.state.epoch == epoch && seen.epoch == epoch
	if !same || seen.sequence <= info.State.LastSeq {
		st.proof.loss = nil
	}
	st.mu.Unlock()
	switch {
	case slices.Contains(known.endedEpochs, epoch) && seen.askedAt.Before(known.endedAt):
		return "", fmt.Errorf("%w: its epoch has just ended", live.ErrUnavailable)
	case slices.Contains(known.endedEpochs, epoch):
		return "somebody has set back its metadata", nil
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
	st.proof.mustCompare = false
	st.mu.Unlock()
	return "", nil
}

// confirmLoss says why a stream that has less than was seen has lost its end. On several nodes a
// leader that was cut off, and is back, may be asked. See lasting.
func (st *stream) confirmLoss(info *jetstream.StreamInfo, seen uint64) (why string, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.proof.loss == nil {
		st.proof.loss = new(lossCheck)
	}
	if len(replicas(info)) > 0 && !st.proof.loss.sawLess() {
		return "", fmt.Errorf("%w: it ends at %d, and had %d", live.ErrUnavailable, info.State.LastSeq, seen)
	}
	return fmt.Sprintf("it ends at %d, and had %d", info.State.LastSeq, seen), nil
}

// countEvery is how often a server that is alone counts what its streams lack. Who damages a file
// within that time after what was published last is found out if more is missing than that.
const countEvery = time.Second

// countsMessages reports whether all messages of the streams are in this server's own files.
func (b *Broker) countsMessages() bool {
	return b.server != nil && b.server.notes() != nil && b.opts.Cluster == nil
}

// countMessages keeps the notes' counts of messages, until Close.
func (b *Broker) countMessages() {
	for sleep(b.ctx, countEvery) {
		b.countOnce(b.ctx)
	}
}

// countOnce counts what the streams lack that have more than when they were counted last.
func (b *Broker) countOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, countEvery)
	defer cancel()
	for _, st := range b.streams.every() {
		if n := st.noteFile.Load(); n != nil && n.isBehind() {
			st.stateSince(ctx, time.Now()) // compares, and notes
		}
	}
}

func replicas(info *jetstream.StreamInfo) []*jetstream.PeerInfo {
	if info.Cluster == nil {
		return nil
	}
	return info.Cluster.Replicas
}

// looksBack is how many messages before one that is not there any more are looked through for
// one that is too new to stand there.
const looksBack = 64

// isOther reports whether the stream has, at or just before a sequence, what was stored later
// than the message that was seen there.
func (st *stream) isOther(ctx context.Context, info *jetstream.StreamInfo, sequence uint64, at time.Time) (bool, error) {
	m, err := st.leaderGet(ctx, getRequest{Sequence: sequence})
	if err != nil || m != nil {
		return m != nil && !m.Time.Equal(at), err
	}
	if len(replicas(info)) > 0 {
		return false, nil // one leader's clock may be behind another's
	}
	from := max(sequence, looksBack) - looksBack + 1
	m, err = st.leaderGet(ctx, getRequest{Sequence: from, NextFor: st.subject(">")})
	return err == nil && m != nil && m.Sequence <= sequence && m.Time.After(at), err
}

// compareServer says that a NATS server which is alone has started anew since the stream was
// last seen whole, and this process has not seen it before. Who restarts the application and
// NATS at one time is told of a gap that may be none.
func (st *stream) compareServer(info *jetstream.StreamInfo) (why string) {
	if start := st.serverStart(info); start == "" || st.found.Load() {
		return ""
	} else if before := info.Config.Metadata[metaServer]; before != "" && before != start {
		return "NATS was started anew, and nobody is left who knew where the stream ended"
	}
	return ""
}

// serverStart says which start of which server a stream is seen in; "": that does not tell.
func (st *stream) serverStart(info *jetstream.StreamInfo) string {
	nc := st.broker.nc
	if st.broker.server != nil || nc.ConnectedClusterName() != "" || len(replicas(info)) > 0 {
		return ""
	}
	if info.Cluster != nil && info.Cluster.Leader != nc.ConnectedServerName() {
		return "" // behind a leaf node
	}
	return nc.ConnectedServerId()
}

// markServer does noteServer's work for a stream that is to be made.
func (st *stream) markServer(c *jetstream.StreamConfig) {
	if start := st.serverStart(&jetstream.StreamInfo{}); start != "" {
		c.Metadata = maps.Clone(c.Metadata) // which has our mark
		c.Metadata[metaServer] = start
	}
}

// noteServer writes into the stream in which start of its server it was last seen whole.
func (st *stream) noteServer(ctx context.Context, info *jetstream.StreamInfo) (*jetstream.StreamInfo, error) {
	start := st.serverStart(info)
	if start == "" || info.Config.Metadata[metaServer] == start {
		return info, nil
	}
	return st.setMeta(ctx, info, map[string]string{metaServer: start})
}

func (st *stream) setMeta(ctx context.Context, info *jetstream.StreamInfo, meta map[string]string) (*jetstream.StreamInfo, error) {
	if err := st.checkOwner(info.Config); err != nil {
		return nil, err
	}
	config := info.Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = make(map[string]string)
	}
	maps.Copy(config.Metadata, meta)
	there, err := st.broker.js.UpdateStream(ctx, config)
	if err != nil {
		return nil, err
	}
	return there.CachedInfo(), nil
}

// maxEnded bounds how many epochs a process remembers that have ended.
const maxEnded = 16

// endEpoch gives a stream another epoch.
func (st *stream) endEpoch(ctx context.Context, info *jetstream.StreamInfo, why string) (*jetstream.StreamInfo, error) {
	before := st.epochOf(info)
	meta := map[string]string{metaEpoch: rand.Text()[:epochLength]}
	if start := st.serverStart(info); start != "" {
		meta[metaServer] = start
	}
	info, err := st.setMeta(ctx, info, meta)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	ended := append(st.proof.endedEpochs, before)
	st.proof = proof{endedEpochs: ended[max(len(ended)-maxEnded, 0):], endedAt: time.Now()}
	st.newestSequence = 0
	st.mu.Unlock()
	b := st.broker
	b.logger.Warn("natsbroker: a stream may have lost publications; clients that resume are told of a gap",
		"stream", st.config.Name, "why", why, "last", info.State.LastSeq)
	b.lost("", errEndLost)
	b.Broadcast(ctx, broadcastEpoch, []byte(st.config.Name)) // who does not hear it asks within a second
	return info, nil
}

// epochLength is that of what tells two epochs of a stream apart: 40 bits.
const epochLength = 8

// epochEnded is told when another node has given a stream another epoch.
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
