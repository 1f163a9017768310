package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Who owns a stream. NATS may have streams of other programs, and of other applications that
// use this library. Our streams have a mark in their metadata, which "nats stream info" shows.
// A stream of another owner is never changed.

// ownerKey is the key in a stream's metadata for the prefix of the application that owns it.
const ownerKey = "livetopic-prefix"

// marked returns metadata with the mark of a prefix. It does not change its argument.
func marked(metadata map[string]string, prefix string) map[string]string {
	if metadata[ownerKey] == prefix {
		return metadata
	}
	metadata = maps.Clone(metadata)
	if metadata == nil {
		metadata = make(map[string]string)
	}
	metadata[ownerKey] = prefix
	return metadata
}

// checkOwner returns an error if an existing stream is not ours.
func (st *stream) checkOwner(is jetstream.StreamConfig) error {
	prefix := st.broker.opts.Prefix
	owner, isMarked := is.Metadata[ownerKey]
	switch {
	case isMarked && owner == prefix, !isMarked && st.madeEarlier(is):
		return nil
	case isMarked:
		return fmt.Errorf("%w: it belongs to the application with Prefix %q, and this Prefix is %q; give one of the two streams another Name",
			ErrNotOurs, owner, prefix)
	}
	return fmt.Errorf("%w: another program has made it, for %s; give StreamConfig another Name, or delete that stream",
		ErrNotOurs, strings.Join(is.Subjects, ", "))
}

// madeEarlier reports whether an earlier version of this package has made a stream without a
// mark. All that such a stream stores and republishes is under our prefix.
func (st *stream) madeEarlier(is jetstream.StreamConfig) bool {
	b := st.broker
	if is.RePublish == nil || is.RePublish.Destination != b.deliverySubject(">") || len(is.Subjects) == 0 {
		return false
	}
	source := is.RePublish.Source
	head := b.opts.Prefix + "."
	if source != head+headStored+".>" && source != head+headDefault+".>" {
		return false
	}
	return !slices.ContainsFunc(is.Subjects, func(subject string) bool {
		return !strings.HasPrefix(subject, strings.TrimSuffix(source, ">"))
	})
}

// foreign returns an error if the last look at the stream showed another owner.
func (st *stream) foreign() error {
	if why := st.makeErr.Load(); why != nil && errors.Is(*why, ErrNotOurs) {
		return *why
	}
	return nil
}

// takes reports whether the existing stream stores a subject.
func (st *stream) takes(ctx context.Context, subject string) (bool, error) {
	there, err := st.broker.js.Stream(ctx, st.config.Name)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(there.CachedInfo().Config.Subjects, func(pattern string) bool {
		return matches(pattern, subject)
	}), nil
}
