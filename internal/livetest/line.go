package livetest

import (
	"net"
	"sync/atomic"
	"time"
)

// Line is a client's connection. The client reads it at a pace, or not at all.
type Line struct {
	net.Conn
	perSecond atomic.Int64 // 0: as fast as it goes
	stalled   atomic.Bool
	read      atomic.Int64
	free      time.Time     // when the next byte may be read
	overslept time.Duration // how much too late the last pause ended: a busy machine must not make the line slower than its pace
}

// Stall makes the client read no bytes until Resume.
func (l *Line) Stall() { l.stalled.Store(true) }

// Resume ends a stall.
func (l *Line) Resume() { l.stalled.Store(false) }

// SetPace sets how many bytes the client reads in a second. 0 stands for no limit.
func (l *Line) SetPace(perSecond int) { l.perSecond.Store(int64(perSecond)) }

// BytesRead returns how many bytes were read so far. The bytes of the handshake count too.
func (l *Line) BytesRead() int64 { return l.read.Load() }

// ticks is how many reads a slow line makes in a second.
const ticks = 50

func (l *Line) Read(b []byte) (int, error) {
	for l.stalled.Load() {
		time.Sleep(time.Millisecond)
	}
	pace := l.perSecond.Load()
	if pace > 0 {
		b = b[:min(len(b), max(int(pace/ticks), 1))]
	}
	n, err := l.Conn.Read(b)
	l.read.Add(int64(n))
	if pace > 0 {
		if earliest := time.Now().Add(-l.overslept); l.free.Before(earliest) {
			l.free = earliest
		}
		l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(pace))
		time.Sleep(time.Until(l.free))
		l.overslept = max(time.Since(l.free), 0)
	}
	return n, err
}

// Close closes the connection, and ends a stall.
func (l *Line) Close() error {
	l.Resume()
	return l.Conn.Close()
}
