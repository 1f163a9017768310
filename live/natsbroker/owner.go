package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
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
	if why := st.why.Load(); why != nil && errors.Is(*why, ErrNotOurs) {
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

// whyNotMade adds to an error of NATS what it leaves out.
func (st *stream) whyNotMade(ctx context.Context, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == codeOverlap:
		for _, subject := range st.subjects {
			if name, failed := st.broker.js.StreamNameBySubject(ctx, subject); failed == nil && name != st.config.Name {
				return &explained{errOverlap, fmt.Sprintf("stream %s takes in what %s covers; give each topic one stream, and each application a Prefix of its own",
					name, subject), err}
			}
		}
	case errors.Is(err, nats.ErrNoResponders) && st.broker.server == nil:
		domain, nc := st.broker.opts.Domain, st.broker.nc
		if domain != "" {
			return fmt.Errorf("%w: see that Options.Domain %q is right and that there is a way to it", err, domain)
		}
		if has, _ := nc.ConnectedServerJetStream(); !has && nc.ConnectedClusterName() == "" && !st.found.Load() {
			return &explained{errNoJetStream, adviceEnable, err}
		}
		return fmt.Errorf("%w: %s; a cluster may have no leader yet", err, adviceEnable)
	}
	return err
}

// leastDefault is how far the default stream is made smaller to fit into NATS. With less
// than that it would keep next to nothing.
const leastDefault = 1 << 20

// fit makes or changes a stream. The default one is made smaller until NATS has that
// much, unless the application has said how large it is to be.
func (st *stream) fit(is jetstream.StreamConfig, do func(want jetstream.StreamConfig) (jetstream.Stream, error)) (jetstream.Stream, error) {
	yields := st == st.broker.streams.fallback && st.broker.opts.yields
	for {
		want := st.wanted(is)
		there, err := do(want)
		if !yields || err == nil || !errors.Is(explain(err), errNotThatMuch) || want.MaxBytes/2 < leastDefault {
			return there, err
		}
		st.atMost = want.MaxBytes / 2
		if is.MaxBytes > st.atMost && is.MaxBytes < want.MaxBytes {
			st.atMost = is.MaxBytes // which NATS has already
		}
	}
}
