package live

import (
	"time"

	"github.com/livetopic/livetopic/live/internal/clock"
)

const (
	// idWindow is how long the ID of a publication is known: as long as JetStream knows one by
	// default. A client that lost its connection is back within it, or gives up.
	idWindow = 2 * time.Minute

	// maxIDs bounds the IDs that are known, since clients choose them. The oldest make space. They
	// take 30 MB at most, with the longest IDs and topics.
	maxIDs = 1 << 16
)

// publicationIDs are the IDs of the publications of the last two minutes. Its zero value is
// empty.
type publicationIDs struct {
	positions map[publicationID]Position
	order     []knownID // oldest first
}

type publicationID struct{ topic, id string }

type knownID struct {
	publicationID
	since int64 // on the clock of package clock
}

// find returns the position of the publication that had the ID.
func (ids *publicationIDs) find(topic, id string) (at Position, known bool) {
	ids.dropExpired()
	if id == "" {
		return Position{}, false
	}
	at, known = ids.positions[publicationID{topic, id}]
	return at, known
}

// add notes an ID that is not known.
func (ids *publicationIDs) add(topic, id string, at Position) {
	if id == "" {
		return
	}
	if ids.positions == nil {
		ids.positions = make(map[publicationID]Position)
	}
	if len(ids.order) == maxIDs {
		ids.dropOldest()
	}
	key := publicationID{topic, id}
	ids.positions[key] = at
	ids.order = append(ids.order, knownID{key, clock.Now()})
}

// dropExpired drops what is older than idWindow. It is called for publications without an ID too, so
// that IDs do not take memory for ever. A map keeps its memory, so an empty one is dropped whole.
func (ids *publicationIDs) dropExpired() {
	if len(ids.order) == 0 {
		return
	}
	for now := clock.Now(); len(ids.order) > 0 && now-ids.order[0].since > int64(idWindow); {
		ids.dropOldest()
	}
	if len(ids.order) == 0 {
		*ids = publicationIDs{}
	}
}

func (ids *publicationIDs) dropOldest() {
	delete(ids.positions, ids.order[0].publicationID)
	ids.order[0] = knownID{}
	ids.order = ids.order[1:]
}
