package natsbroker

import (
	"errors"
	"log/slog"
	"testing"
	"time"
)

// blockedSink is a sink whose Lost waits, once the connection was down.
type blockedSink struct {
	devNull
	blocked chan struct{} // takes one element for each Lost that waits
	release chan struct{} // ends one wait
}

func (s *blockedSink) Lost(_ string, cause error) {
	if errors.Is(cause, errReconnected) {
		s.blocked <- struct{}{}
		<-s.release
	}
}

// mendNow does what the mender does when the disk takes data again.
func mendNow(t *testing.T, b *Broker) {
	b.mender.stopPublications(explainBroken(errors.New("a test")))
	if err := b.mender.restart(); err != nil {
		t.Error(err)
	}
	b.mender.resumePublications()
}

// When the broker replaces its own server, that is no loss of the connection, however late the
// broker hears of it.
func TestReplacedServerIsNoLossOfTheConnection(t *testing.T) {
	t.Parallel() // it mostly waits for the client of NATS to connect again
	book := &logBook{least: slog.LevelInfo}
	o := Options{StoreDir: t.TempDir(), Logger: slog.New(book), Streams: []StreamConfig{{Name: "CHAT", Subjects: []string{"chat.>"}}}}
	b := open(t, o)
	sink := &blockedSink{blocked: make(chan struct{}), release: make(chan struct{})}
	b.Start(sink)
	before := b.server.running().ID()
	waitFor(t, "the connection to be watched", func() bool { return b.isWatched(before) })
	if err := b.nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	<-sink.blocked // watchConnection handles nothing from here on
	mended := make(chan struct{})
	go func() { // ends when the server was replaced
		mendNow(t, b)
		close(mended)
	}()
	waitFor(t, "the connection to the new server", func() bool {
		id := b.nc.ConnectedServerId()
		return id != "" && id != before
	})
	select {
	case <-mended: // too early
	case <-time.After(300 * time.Millisecond):
	}
	sink.release <- struct{}{}
	<-sink.blocked // watchConnection has heard of the new server
	sink.release <- struct{}{}
	<-mended
	if lines := book.find("not connected"); len(lines) != 1 {
		t.Errorf("one connection was lost, logged: %q", lines)
	}
}
