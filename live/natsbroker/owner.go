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

// Whose a stream is. NATS may have streams of other programs, and of other applications
// that use this library. Ours have a mark, which nats stream info shows; a stream of
// another owner is never changed.

// ownerKey is where a stream's metadata has the prefix of the application that it is of.
const ownerKey = "livetopic-prefix"

// marked returns metadata with the mark of a prefix.
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

// checkOwner returns an error for a stream that is there and not ours.
func (st *stream) checkOwner(is jetstream.StreamConfig) error {
	prefix := st.broker.opts.Prefix
	owner, isMarked := is.Metadata[ownerKey]
	switch {
	case isMarked && owner == prefix, !isMarked && st.madeEarlier(is):
		return nil
	case isMarked:
		return fmt.Errorf("%w: it is of the application whose Prefix is %q, and this one's is %q; give the stream of one of them another Name",
			ErrNotOurs, owner, prefix)
	}
	return fmt.Errorf("%w: another program has made it, for %s; give StreamConfig another Name, or delete it",
		ErrNotOurs, strings.Join(is.Subjects, ", "))
}

// madeEarlier reports whether an unmarked stream is as earlier versions of this package have
// made it: all that it takes in and sends on is under our prefix.
func (st *stream) madeEarlier(is jetstream.StreamConfig) bool {
	b := st.broker
	if is.RePublish == nil || is.RePublish.Destination != b.deliverySubject(">") || len(is.Subjects) == 0 {
		return false
	}
	source := is.RePublish.Source
	if source != b.storedSubject(">") && source != b.defaultSubject(">") {
		return false
	}
	return !slices.ContainsFunc(is.Subjects, func(subject string) bool {
		return !strings.HasPrefix(subject, strings.TrimSuffix(source, ">"))
	})
}

// foreign returns an error if the stream was found to be somebody else's.
func (st *stream) foreign() error {
	if why := st.makeErr.Load(); why != nil && errors.Is(*why, ErrNotOurs) {
		return *why
	}
	return nil
}

// takes reports whether a stream that is there takes in a subject.
func (st *stream) takes(ctx context.Context, subject string) (bool, error) {
	there, err := st.broker.js.Stream(ctx, st.config.Name)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(there.CachedInfo().Config.Subjects, func(pattern string) bool {
		return matches(pattern, subject)
	}), nil
}
