package server

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/bench/wire"
	"github.com/livetopic/livetopic/live"
	"github.com/livetopic/livetopic/live/natsbroker"
)

var natsKind = Kind{
	Name: "two-nodes",
	About: "this library, two nodes over NATS, one embedded in each: the figures are those of the node that has the sessions; " +
		"the publications come from the other, but for the chat's, which this one makes",
	Role:    Variant,
	Dialect: wire.Plain,
	New:     newNATS,
}

// NodeCommand is the subcommand under which the program is the other node.
const NodeCommand = "node"

// natsServer is a live server whose publications are made by another process.
type natsServer struct {
	*liveServer
	heard chan string // marks that came from the other node
	known int         // subscriptions of which it knows

	mu    sync.Mutex // guards other
	other *bufio.Writer
}

func newNATS(o Options) (Server, error) {
	s := &natsServer{heard: make(chan string, 1)}
	address, err := s.startOther()
	if err != nil {
		return nil, err
	}
	broker, err := natsbroker.New(natsbroker.Options{
		Cluster: &natsbroker.Cluster{Listen: "127.0.0.1:0", Routes: []string{address}, NoStore: true},
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	s.liveServer = newLiveOn(o, broker)
	return s, s.awaitOther()
}

// startOther starts the other node, which ends with this process's end of a pipe, and
// returns where it listens for nodes.
func (s *natsServer) startOther() (address string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(self, NodeCommand)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	s.other = bufio.NewWriterSize(in, 1<<20)
	line, err := bufio.NewReader(out).ReadString('\n')
	return strings.TrimSpace(line), err
}

// awaitOther returns when what the other node publishes arrives here.
func (s *natsServer) awaitOther() error {
	const topic = "two-nodes"
	listening, err := s.live.Listen(topic, func(m live.Message) {
		select {
		case s.heard <- string(m.Data):
		default:
		}
	})
	if err != nil {
		return err
	}
	defer listening.Unsubscribe()
	const patience = 10 * time.Second
	for start := time.Now(); time.Since(start) < patience; {
		if err := s.Publish(topic, []byte("1")); err != nil {
			return err
		}
		select {
		case <-s.heard:
			return nil
		case <-time.After(5 * time.Millisecond):
		}
	}
	return errors.New("the other node is not heard")
}

// Subscriptions counts the subscriptions that the other node knows.
func (s *natsServer) Subscriptions() int {
	count := s.liveServer.Subscriptions()
	// A node tells the others about its topics in order. If they know a later one, they know
	// all before it.
	if count != s.known && s.awaitOther() == nil {
		s.known = count
	}
	return s.known
}

// What the other node is told, before a publication or alone.
const (
	keepOne    = 'k' // for later
	publishOne = 'p'
	publishAll = 'a' // that were kept
)

// Publish has the other node publish.
func (s *natsServer) Publish(topic string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(publishOne, topic, data)
	return s.other.Flush()
}

// Prepare implements Preparer. It gives the other node the whole burst before the measuring
// begins, so that this does not count as time of this node.
func (s *natsServer) Prepare(burst []wire.Publication) (publish func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range burst {
		s.write(keepOne, p.Topic, p.Data)
	}
	err := s.other.Flush()
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.other.WriteByte(publishAll)
		return errors.Join(err, s.other.Flush())
	}
}

func (s *natsServer) write(op byte, topic string, data []byte) {
	s.other.WriteByte(op)
	for _, b := range [][]byte{[]byte(topic), data} {
		s.other.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		s.other.Write(b)
	}
}

// RunNode is the other node: it publishes what stdin says until that ends.
func RunNode(stdin io.Reader, stdout, stderr io.Writer) int {
	if err := runNode(bufio.NewReaderSize(stdin, 1<<20), stdout); err != nil {
		fmt.Fprintln(stderr, "node:", err)
		return 1
	}
	return 0
}

func runNode(in *bufio.Reader, stdout io.Writer) error {
	broker, address, err := listenForNodes()
	if err != nil {
		return err
	}
	server := live.New(live.Options{Broker: broker})
	defer server.Shutdown(context.Background())
	fmt.Fprintln(stdout, address)
	var kept []wire.Publication
	for {
		op, err := in.ReadByte()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if op == publishAll {
			for _, p := range kept {
				if err := server.Publish(p.Topic, p.Data); err != nil {
					return err
				}
			}
			kept = kept[:0]
			continue
		}
		p, err := readPublication(in)
		if err != nil {
			return err
		}
		if op == keepOne {
			kept = append(kept, p)
		} else if err := server.Publish(p.Topic, p.Data); err != nil {
			return err
		}
	}
}

func readPublication(in *bufio.Reader) (wire.Publication, error) {
	var parts [2][]byte
	for i := range parts {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); err != nil {
			return wire.Publication{}, err
		}
		parts[i] = make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(in, parts[i]); err != nil {
			return wire.Publication{}, err
		}
	}
	return wire.Publication{Topic: string(parts[0]), Data: parts[1]}, nil
}

// listenForNodes returns a broker, and where it listens for other nodes. A port that was free may be
// taken when the broker listens, so there are several attempts.
func listenForNodes() (broker *natsbroker.Broker, address string, err error) {
	for range 10 {
		var l net.Listener
		if l, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return nil, "", err
		}
		address = l.Addr().String()
		l.Close()
		broker, err = natsbroker.New(natsbroker.Options{
			Cluster: &natsbroker.Cluster{Listen: address, NoStore: true},
			Logger:  slog.New(slog.DiscardHandler),
		})
		if err == nil {
			return broker, address, nil
		}
	}
	return nil, "", err
}
