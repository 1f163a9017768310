package server

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/livetopic/livetopic/bench/wire"
)

// Command is a line that the generator writes to the server process's stdin.
type Command struct {
	Op     string
	From   int           // OpBurst, OpPace: the number of the first publication
	Count  int           // and how many there are
	First  int           // OpBurst: the number of the first topic
	Topics int           // publication i goes to topic First + i mod Topics
	Size   int           // of each payload, in bytes
	Every  time.Duration // OpPace: from one to the next
}

const (
	OpSubscriptions = "subscriptions" // answer: Subscriptions
	OpOpen          = "open"          // begin to measure
	OpBurst         = "burst"         // begin to measure, and publish all; no answer
	OpPace          = "pace"          // publish at a fixed rate; answered at the end
	OpClose         = "close"         // end measuring; answer: Usage
	OpMemory        = "memory"        // collect garbage; answer: Memory
)

// Reply is a line that the server process writes to its stdout; the first one
// tells its address.
type Reply struct {
	Error         string  `json:",omitempty"`
	Address       string  `json:",omitempty"`
	Subscriptions int     `json:",omitempty"`
	Usage         *Usage  `json:",omitempty"`
	Memory        *Memory `json:",omitempty"`
}

// RunProcess runs one server until stdin ends, and returns the exit code. args are
// those after the subcommand.
func RunProcess(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if err := runProcess(args, stdin, stdout); err != nil {
		fmt.Fprintln(stderr, "server:", err)
		return 1
	}
	return 0
}

func runProcess(args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	name := flags.String("server", "", "which server")
	encoded := flags.String("options", "{}", "Options, as JSON")
	profile := flags.String("cpuprofile", "", "write a CPU profile to this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	kind, ok := Lookup(*name)
	if !ok {
		return fmt.Errorf("there is no server %q", *name)
	}
	var o Options
	if err := json.Unmarshal([]byte(*encoded), &o); err != nil {
		return err
	}
	if err := RaiseFileLimit(); err != nil {
		return err
	}
	stop, err := startProfile(*profile)
	if err != nil {
		return err
	}
	defer stop()
	server, err := kind.New(o)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if o.TLS {
		if listener, err = listenTLS(listener); err != nil {
			return err
		}
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	p := &process{server: server, out: json.NewEncoder(stdout)}
	p.out.Encode(Reply{Address: listener.Addr().String()})
	ended := make(chan error, 1)
	go func() { ended <- p.obey(stdin) }()
	select {
	case err = <-failed:
	case err = <-ended:
	}
	return err
}

func startProfile(file string) (stop func(), err error) {
	if file == "" {
		return func() {}, nil
	}
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
	}, nil
}

// process is used by one goroutine, which obeys the commands in turn.
type process struct {
	server Server
	out    *json.Encoder
	meter  meter
	failed error // the first error of Publish

	names        []string // of the topics
	publications []wire.Publication
	payloads     []byte // the memory of all payloads of a burst
}

func (p *process) obey(stdin io.Reader) error {
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		var c Command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return fmt.Errorf("command: %w", err)
		}
		reply, err := p.do(c)
		if err != nil {
			return err
		}
		if reply == nil {
			continue
		}
		if p.failed != nil {
			reply.Error = p.failed.Error()
		}
		if err := p.out.Encode(reply); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (p *process) do(c Command) (*Reply, error) {
	switch c.Op {
	case OpSubscriptions:
		return &Reply{Subscriptions: p.server.Subscriptions()}, nil
	case OpOpen:
		p.meter.open()
		return &Reply{}, nil
	case OpBurst:
		p.burst(c)
		return nil, nil
	case OpPace:
		p.pace(c)
		return &Reply{}, nil
	case OpClose:
		usage := p.meter.close()
		return &Reply{Usage: &usage}, nil
	case OpMemory:
		memory := readMemory()
		return &Reply{Memory: &memory}, nil
	}
	return nil, errors.New("unknown command " + c.Op)
}

// burst publishes c.Count publications as fast as the server takes them. Their
// payloads are made before the measuring begins.
func (p *process) burst(c Command) {
	p.prepare(c)
	publish := p.publishAll
	if s, ok := p.server.(Preparer); ok {
		publish = s.Prepare(p.publications)
	}
	p.meter.open()
	p.fail(publish())
}

// prepare builds the payloads in the memory of the last burst. Every session has received
// that burst, so nobody reads it any more. New memory would cost the server's garbage collector
// time that has nothing to do with the server.
func (p *process) prepare(c Command) {
	p.nameTopics(c.First + c.Topics)
	p.publications = p.publications[:0]
	if need := c.Count * c.Size; cap(p.payloads) < need {
		p.payloads = make([]byte, 0, need)
	}
	buf := p.payloads[:0]
	for i := c.From; i < c.From+c.Count; i++ {
		start := len(buf)
		buf = wire.AppendPayload(buf, p.mark(c, i, 0), c.Size)
		data := buf[start:len(buf):len(buf)]
		p.publications = append(p.publications, wire.Publication{Topic: p.names[c.First+i%c.Topics], Data: data})
	}
}

func (p *process) publishAll() error {
	for _, publication := range p.publications {
		if err := p.server.Publish(publication.Topic, publication.Data); err != nil {
			return err
		}
	}
	return nil
}

// pace publishes at a fixed rate, whether or not the server keeps up. Each payload has the
// time at which it was due.
func (p *process) pace(c Command) {
	p.nameTopics(c.Topics)
	const lead = 20 * time.Millisecond // until the first one, to get into step
	start := wire.Now() + int64(lead)
	for i := range c.Count {
		intended := start + int64(i)*int64(c.Every)
		if wire.Now() < intended {
			wire.SleepUntil(intended)
		}
		number := c.From + i
		data := wire.AppendPayload(make([]byte, 0, c.Size), p.mark(c, number, intended), c.Size)
		p.fail(p.server.Publish(p.names[number%c.Topics], data))
		runtime.Gosched() // what publishing started runs before this thread sleeps with its P
	}
}

func (p *process) mark(c Command, number int, at int64) wire.Mark {
	return wire.Mark{Stream: uint32(c.First + number%c.Topics), Seq: uint32(number / c.Topics), Time: at}
}

func (p *process) nameTopics(n int) {
	for i := len(p.names); i < n; i++ {
		p.names = append(p.names, wire.TopicName(i))
	}
}

func (p *process) fail(err error) {
	if err != nil && p.failed == nil {
		p.failed = err
	}
}
