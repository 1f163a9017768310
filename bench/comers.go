package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/load"
	"github.com/livetopic/livetopic/bench/server"
	"github.com/livetopic/livetopic/bench/wire"
)

// comersCommand is the subcommand under which this program is the clients that come back.
const comersCommand = "comers"

// comers are clients that come back to a topic, all at once. They are a process that gets a CPU
// only when nothing else wants one, because real clients are other machines, and take no
// CPU from the server or from the generator. Threads of the generator would not do: its
// garbage collector would wait for them.
type comers struct {
	Address string
	Topic   string
	Since   string // a position of the topic
	Stream  uint32 // what the topic is in the marks
	Clients int
	Missed  int // publications, by each
	Payload int // bytes
}

// back is what the process answers when all clients have everything.
type back struct {
	Took  time.Duration
	Error string
}

// dial connects the clients. If later is true, they subscribe only when Subscribe is called.
func (c comers) dial(d *wire.LiveV1, later bool) (*load.Generator, error) {
	g, err := load.New(load.Options{Address: c.Address, Dialect: d, Subprotocol: "live.v1", Payload: c.Payload, Later: later})
	if err != nil {
		return nil, err
	}
	one := load.Session{Topics: []string{d.Topic}, Streams: []uint32{c.Stream}}
	if err := g.Dial(slices.Repeat([]load.Session{one}, c.Clients), c.Clients); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// runComers is the process. It reads comers, connects them and answers. At the next line it has
// all of them come back.
func runComers(stdin io.Reader, stdout io.Writer) int {
	in, out := json.NewDecoder(stdin), json.NewEncoder(stdout)
	var c comers
	var g *load.Generator
	err := errors.Join(server.RaiseFileLimit(), in.Decode(&c))
	if err == nil {
		g, err = c.dial(&wire.LiveV1{Topic: c.Topic, Since: c.Since}, true)
	}
	if err != nil {
		out.Encode(back{Error: err.Error()})
		return 1
	}
	defer g.Close()
	out.Encode(back{})
	var begin struct{}
	if in.Decode(&begin) != nil {
		return 1
	}
	start := time.Now()
	err = g.Subscribe()
	if err == nil {
		err = g.Receive(uint64(c.Clients * c.Missed))
	}
	answer := back{Took: time.Since(start)}
	if err != nil {
		answer.Error = err.Error()
	}
	out.Encode(answer)
	in.Decode(&begin) // until stdin ends: the clients stay
	return 0
}

// comersProcess is a process of comers.
type comersProcess struct{ *process }

// startComers starts the process, and returns when its clients are connected.
func startComers(c comers) (comersProcess, error) {
	started, err := startProcess("clients'", startAside, comersCommand)
	if err != nil {
		return comersProcess{}, err
	}
	p := comersProcess{started}
	if _, err := p.ask(c); err != nil {
		p.stop()
		return comersProcess{}, err
	}
	return p, nil
}

// startAside starts a process that gets a CPU only when nothing else wants it.
func startAside(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() { // ends with its thread, which must not run anything else
		runtime.LockOSThread()
		err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// comeBack has all clients subscribe, and returns how long it took until each had everything.
func (p comersProcess) comeBack() (time.Duration, error) { return p.ask(struct{}{}) }

func (p comersProcess) ask(command any) (time.Duration, error) {
	if err := p.tell(command); err != nil {
		return 0, err
	}
	var b back
	if err := p.hear(&b, answerTimeout); err != nil {
		return 0, err
	}
	if b.Error != "" {
		return 0, errors.New(b.Error)
	}
	return b.Took, nil
}
