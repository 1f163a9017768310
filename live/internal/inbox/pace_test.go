package inbox

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// paced is a reader in the time of synctest, with its client.
type paced struct {
	listener
	r    Reader
	far  net.Conn
	ends chan heard
	at   time.Time // when the reading ended
}

// pace runs f in the time of synctest, beside a reader.
func pace(t *testing.T, early []byte, f func(t *testing.T, p *paced)) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		p := &paced{far: far, ends: make(chan heard, 1)}
		p.r.Init(near, nil, early, p, Options{ReadLimit: 100 << 20})
		f(t, p)
		far.Close()
		synctest.Wait()
	})
}

// read reads to the end. It runs in the reader's goroutine.
func (p *paced) read() {
	go func() {
		h := p.readAll(&p.r)
		p.at = time.Now()
		p.ends <- h
	}()
}

// trickle writes b as the client, in steps. It ends when all is written or the reader has ended.
func (p *paced) trickle(b []byte, step int, every time.Duration) (h heard, ended bool) {
	for len(b) > 0 {
		time.Sleep(every)
		synctest.Wait()
		select {
		case h := <-p.ends:
			return h, true
		default:
		}
		n := min(step, len(b))
		p.far.SetWriteDeadline(time.Now().Add(time.Second)) // the reader may end within a step
		p.far.Write(b[:n])
		b = b[n:]
	}
	synctest.Wait()
	select {
	case h := <-p.ends:
		return h, true
	default:
		return heard{}, false
	}
}

// A message may take half a minute, and besides as long as it takes at 8 KB/s.
func TestMessageMayNotComeTooSlowly(t *testing.T) {
	inFragments := func(n, size int) []byte {
		b := frameOf(begin, "")
		for range n {
			b = append(b, frameOf(more, strings.Repeat("x", size))...)
		}
		return append(b, frameOf(last, "")...)
	}
	for _, test := range []struct {
		name  string
		in    []byte
		step  int
		every time.Duration
		end   time.Duration // when it ends with 1008, or a little later; 0: it does not
	}{
		{"a small message within 30 s", frameOf(text, strings.Repeat("x", 20)), 1, time.Second, 0},
		{"a small message that takes longer", frameOf(text, strings.Repeat("x", 60)), 1, time.Second, 32 * time.Second},
		{"the same in fragments", inFragments(60, 1), 7, time.Second, 32 * time.Second},
		{"fragments without a byte", inFragments(60, 0), 6, time.Second, 32 * time.Second},
		{"10 MB at 9 KB/s", frameOf(text, strings.Repeat("x", 10<<20)), 9 << 10, time.Second, 0},
		{"10 MB at 7 KB/s", frameOf(text, strings.Repeat("x", 10<<20)), 7 << 10, time.Second, 240 * time.Second},
		{"10 MB at 7 KB/s in fragments", inFragments(1463, 7<<10-8), 7 << 10, time.Second, 240 * time.Second},
		{"10 MB at 4 KB/s", frameOf(text, strings.Repeat("x", 10<<20)), 4 << 10, time.Second, 60 * time.Second},
		{"1 MB at once, then nothing but a byte now and then", frameOf(text, strings.Repeat("x", 1<<20)), 1<<20 - 1000, 20 * time.Second, 0},
		{"one fragment, then pings only", join(frameOf(begin, "x"), join(slicesOf(frameOf(ping, ""), 60)...)), 7, time.Second, 31 * time.Second},
		{"one fragment, then pongs only", join(frameOf(begin, "x"), join(slicesOf(frameOf(pong, ""), 60)...)), 7, time.Second, 31 * time.Second},
		{"pings without a message", join(slicesOf(frameOf(ping, ""), 100)...), 6, time.Second, 0},
		{"small messages without end", join(slicesOf(frameOf(text, "abc"), 100)...), 9, time.Second, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			pace(t, nil, func(t *testing.T, p *paced) {
				p.read()
				start := time.Now()
				h, ended := p.trickle(test.in, test.step, test.every)
				took := p.at.Sub(start)
				switch {
				case test.end == 0 && ended:
					t.Errorf("after %v: %q", took, h.end)
				case test.end > 0 && (h.end != "broken 1008" || took < test.end-time.Second || took > test.end*21/20+6*time.Second):
					t.Errorf("%q after %v, want 1008 after %v", h.end, took, test.end)
				}
			})
		})
	}
}

func slicesOf(b []byte, n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = b
	}
	return all
}

// The time in which the server does not read does not count for the pace of a message.
func TestPausesDoNotCountForThePace(t *testing.T) {
	for name, pauseIn := range map[string]func(p *paced, pause func()){
		"charge": func(p *paced, pause func()) { p.charged = func(int, int) { pause() } },
		"admit":  func(p *paced, pause func()) { p.admit = func(int) { pause() } },
	} {
		t.Run(name, func(t *testing.T) {
			pace(t, nil, func(t *testing.T, p *paced) {
				pauses := 0
				pauseIn(p, func() {
					pauses++
					p.r.Pause()
					time.Sleep(time.Minute)
					p.r.Resume()
				})
				p.read()
				in := frameOf(begin, strings.Repeat("x", 20_000))
				in = append(in, frameOf(more, strings.Repeat("y", 20_000))...)
				in = append(append(in, frameOf(last, "z")...), closeFrame(1000, "")...)
				p.far.Write(in)
				if h := <-p.ends; len(h.messages) != 1 || len(h.messages[0]) != 40_001 || h.end != "close 1000 " {
					t.Errorf("%d messages, then %q", len(h.messages), h.end)
				}
				if pauses < 3 {
					t.Errorf("only %d pauses", pauses)
				}
			})
		})
	}
}

// A peer may not hold a message for ever with small frames for which it always has to wait.
func TestMessageMayNotHaveTooManyFrames(t *testing.T) {
	fragments := func(n, size int) []byte {
		return append(frameOf(begin, ""), bytes.Repeat(frameOf(more, strings.Repeat("x", size)), n)...)
	}
	for _, test := range []struct {
		name string
		in   []byte
		end  string
	}{
		{"as many empty fragments as may be", append(fragments(freeFrames-2, 0), frameOf(last, "x")...), "close 1000 "},
		{"empty fragments without end", fragments(freeFrames+1, 0), "broken 1008"},
		{"pings without end", append(frameOf(begin, "x"), bytes.Repeat(frameOf(ping, ""), freeFrames+1)...), "broken 1008"},
		{"fragments of a byte without end", fragments(freeFrames*5/4, 1), "broken 1008"},
		{"fragments of eight bytes", append(fragments(2*freeFrames, bytesPerFrame), frameOf(last, "x")...), "close 1000 "},
		{"many messages and pings", bytes.Repeat(append(frameOf(text, "x"), frameOf(ping, "")...), freeFrames+1), "close 1000 "},
	} {
		t.Run(test.name, func(t *testing.T) {
			pace(t, nil, func(t *testing.T, p *paced) {
				p.charged = func(int, int) { // as a client that is over its rate
					p.r.Pause()
					time.Sleep(time.Millisecond)
					p.r.Resume()
				}
				p.read()
				go p.far.Write(append(test.in, closeFrame(1000, "")...)) // ends with the pipe
				if h := <-p.ends; h.end != test.end {
					t.Errorf("ended with %q, want %q", h.end, test.end)
				}
			})
		})
	}
}

// Age does not make a message slower that came with the handshake.
func TestAgeDoesNotCountForThePace(t *testing.T) {
	in := join(frameOf(begin, "a"), frameOf(last, "b"), closeFrame(1000, ""))
	for n := range in {
		pace(t, in[:n:n], func(t *testing.T, p *paced) {
			p.r.Age(time.Hour)
			p.read()
			go p.far.Write(in[n:])
			if h := <-p.ends; len(h.messages) != 1 || h.end != "close 1000 " {
				t.Errorf("%d bytes came before: %d messages, then %q", n, len(h.messages), h.end)
			}
		})
	}
}

// Idle returns the time since the last byte of any frame. In a pause it returns 0.
func TestIdleIsTheSilenceOfTheClient(t *testing.T) {
	pace(t, nil, func(t *testing.T, p *paced) {
		idle := func(what string, want time.Duration) {
			t.Helper()
			synctest.Wait()
			if got := p.r.Idle(); got != want {
				t.Errorf("%s: idle for %v, want %v", what, got, want)
			}
		}
		p.read()
		idle("at first", 0)
		p.r.Age(5 * time.Second)
		idle("made to look old", 5*time.Second)
		time.Sleep(time.Minute)
		idle("after a minute", 65*time.Second)
		for _, piece := range [][]byte{
			{ping}, {0x80}, {0, 0, 0, 0}, frameOf(text, "x"), frameOf(pong, ""),
			frameOf(text, strings.Repeat("x", 20_000))[:10], make([]byte, 10_000), make([]byte, 9_000), make([]byte, 990),
		} {
			time.Sleep(time.Second)
			p.far.Write(piece)
			idle("after a byte", 0)
		}
		time.Sleep(time.Second)
		heard := p.r.Heard()
		p.charged = func(int, int) {
			p.r.Pause()
			time.Sleep(time.Hour)
			p.r.Resume()
		}
		p.far.Write([]byte{0, 0, 0, 0, 0, 0, 0, 0}) // the rest of the message
		time.Sleep(30 * time.Minute)
		idle("in a pause", 0)
		time.Sleep(30 * time.Minute)
		idle("at the end of the pause", 0)
		if p.r.Heard() <= heard {
			t.Error("the pause is not in the past")
		}
		time.Sleep(10 * time.Second)
		idle("after the pause", 10*time.Second)
	})
}

// If the client of an ended session goes on sending, that costs no CPU. Its close frame is still
// read.
func TestFloodOfAnEndedSessionIsReadSlowly(t *testing.T) {
	pace(t, nil, func(t *testing.T, p *paced) {
		p.read()
		p.r.End()
		start := time.Now()
		const n = 1000
		for range n {
			p.far.Write(frameOf(text, "abcdefghi")) // a read each
		}
		p.far.Write(closeFrame(1001, ""))
		if h := <-p.ends; len(h.messages) > 0 || h.end != "close 1001 " {
			t.Errorf("%d messages, then %q", len(h.messages), h.end)
		}
		if took := p.at.Sub(start); took < (n-freeSkips)*skipPause || took > 2*n*skipPause {
			t.Errorf("%d reads in %v", n, took)
		}
	})
	pace(t, nil, func(t *testing.T, p *paced) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			p.r.Drain()
			cancel()
		}()
		start := time.Now()
		for range 1000 {
			p.far.Write(make([]byte, 4096))
		}
		if took := time.Since(start); took < (1000-freeSkips-2)*skipPause {
			t.Errorf("1000 reads in %v", took)
		}
		p.far.Close()
		<-ctx.Done()
	})
}
