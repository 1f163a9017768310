package natsbroker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Options says where NATS is and what it keeps. With the zero value the server is in this
// process, opens no port, and keeps streams in memory.
type Options struct {
	// StoreDir is the folder in which the embedded server keeps streams. New makes the folder
	// if it is missing. Only one process may use it at a time. A cluster cannot take over the
	// streams of a server that is alone, and such a server cannot take over the streams of a
	// cluster: New returns an error. "": streams are in memory and end with the process.
	StoreDir string

	// SyncAlways writes every publication of a stream to the disk before it is acknowledged.
	// Without it the operating system writes later. Then nothing is lost when the process dies,
	// but up to two minutes are lost when the machine loses power. After a loss of power the
	// clients that resume are told of a gap, even if nothing was lost. On systems other than
	// Linux they are told of a gap after each end of the process that was not a stop.
	SyncAlways bool

	// Name is the name of the embedded server. No other server in the cluster may have it, and
	// it must stay the same as long as StoreDir does. "": a random name, which is kept in
	// StoreDir.
	Name string

	// Cluster makes the embedded server a member of a cluster of embedded servers. nil: the
	// server is alone.
	Cluster *Cluster

	// Servers are the URLs of a NATS that runs elsewhere, as "nats://10.0.0.1:4222". Then no
	// server is embedded. NATS may start after the broker. If this NATS is a single server, and
	// restarts while no instance of the application runs, clients that resume are told of a
	// gap: no process can tell whether the streams are whole. The same holds if it is a
	// cluster, and a stream gets another leader while no instance runs. In a cluster with
	// a NATS older than 2.12, and for a stream with one copy in a cluster, a loss while no
	// instance runs is not noticed.
	Servers []string

	// Connect has more options for the connection to Servers, such as credentials and TLS. The
	// connection must receive its own messages and must reconnect without end. So New refuses
	// nats.NoEcho, nats.NoReconnect, and nats.MaxReconnects with 0 or more. With
	// nats.RetryOnFailedConnect(false) New fails while NATS is down.
	Connect []nats.Option

	// Conn is the application's own connection, for use instead of Servers. Close does not
	// close it. New refuses a connection with nats.NoEcho, because this server would not hear
	// what it publishes. The connection's reconnect buffer is not used: Publish fails while
	// NATS is down. After nats.MaxReconnects attempts the connection is closed for good, and
	// the broker with it. nats.MaxReconnects(-1) never gives up.
	Conn *nats.Conn

	// Domain is the JetStream domain of the streams, for leaf nodes. "": the domain of the
	// server.
	Domain string

	// Prefix is the first token of all subjects that the broker uses, up to 64 bytes.
	// Applications that share a NATS need different prefixes, and different names for their
	// streams: a stream belongs to one prefix. "": "live".
	Prefix string

	// Streams keep the history of the topics that their Subjects cover. New creates or updates
	// them. If New would have to wait for other nodes, this goes on in the background: see
	// Ready.
	Streams []StreamConfig

	// Default is the stream for topics that have TopicOptions.History and that none of Streams
	// covers. It is created when a topic first needs it. Its Subjects must be empty. A field
	// that is zero gets a default. Name: Prefix in capitals. MaxMsgsPerTopic: 1,000, as many as
	// one client can get at once. MaxAge: a week. MaxBytes: a gigabyte, or half of the storage
	// of an embedded server if that is less. If a NATS elsewhere has less storage than that,
	// MaxBytes is lowered until the stream fits.
	Default StreamConfig

	// DefaultKeyed is the same for keyed topics: see live.TopicOptions.Keyed. Name: that of Default, and
	// "_KEYED". Its MaxMsgsPerTopic must be 0: History bounds the keys. MaxAge: none, so a key
	// stays until it is removed, or for TopicOptions.HistoryAge. It needs NATS 2.11 or later.
	DefaultKeyed StreamConfig

	// PublishTimeout is how long a publication may wait for its acknowledgement. 0: 10 s,
	// longer than the four to nine seconds in which a cluster elects another leader.
	PublishTimeout time.Duration

	// Linger is how long a topic stays subscribed at NATS after its last subscriber at this
	// node has gone. 0: 10 s, so that the reload of a page costs the cluster nothing.
	Linger time.Duration

	// Logger gets the log of the broker and of the embedded server. nil: slog.Default().
	Logger *slog.Logger

	shrinkDefault bool // the application has not set Default.MaxBytes, so it may be lowered
	shrinkKeyed   bool // the same for DefaultKeyed
}

// Cluster makes the embedded server a member of a cluster of embedded servers.
//
// A stream needs a majority of the nodes that store, and nodes that are down count too. So
// these nodes are few and fixed: three or five. All other nodes have NoStore.
type Cluster struct {
	// Name is the name of the cluster. "": "livetopic".
	Name string

	// Listen is the host and port where the other nodes reach this node, as "10.0.0.1:6222".
	// Port 0: any free port.
	Listen string

	// Advertise is the address that other nodes are told instead of Listen. "": Listen.
	Advertise string

	// Routes are the hosts and ports of other nodes. A few of them suffice, since nodes tell
	// each other of the rest. One name that resolves to all nodes suffices too. This node may
	// be among them. A node that stores must name at least one.
	Routes []string

	// Username and Password are the same for all nodes. Everybody who has them can read and
	// write everything. Without them and without TLS, Listen must be a loopback address.
	Username, Password string

	// TLS secures the connections between nodes, in both directions. Without a password the
	// nodes must show certificates that RootCAs or ClientCAs have signed. nil: no TLS.
	TLS *tls.Config

	// NoStore says that this node keeps no streams. It is for web nodes that come and go beside
	// the nodes that store.
	NoStore bool
}

// StreamConfig describes a JetStream stream: which topics it covers and what it keeps of them.
// A bound of zero is no bound.
type StreamConfig struct {
	// Name is the name of the stream, without blanks, dots and slashes. The stream has the same
	// name in NATS, where another program may have a stream of that name: see ErrNotOurs.
	Name string

	// Subjects are topics, or patterns as NATS writes them: "*" stands for one part of a topic,
	// and ">" at the end stands for one or more. Dots and colons divide a topic into parts. A
	// pattern covers topics with dots and topics with colons: "chat.>" and "chat:>" both cover
	// "chat.room.1" and "chat:room:1", which are two topics.
	Subjects []string

	MaxMsgs         int64         // publications in the stream
	MaxMsgsPerTopic int64         // publications of one topic; then a busy topic cannot push out the others
	MaxBytes        int64         // size of the whole stream
	MaxAge          time.Duration // age of a publication; 100 ms or more

	// Keyed says that the stream is for keyed topics only, and keeps the newest publication of each
	// key. MaxMsgsPerTopic must be 0. It needs NATS 2.11 or later. If it is full by MaxMsgs or MaxBytes,
	// it refuses new keys: the error wraps ErrFull. Other streams drop their oldest publications. What a
	// stream has when it becomes keyed takes space until MaxAge, and is not shown.
	Keyed bool

	// Replicas is the number of nodes that keep a copy of the stream: 1, 3 or 5. 0: 3 on an
	// embedded cluster, else 1.
	Replicas int

	// Storage is jetstream.FileStorage or jetstream.MemoryStorage. A stream in memory is lost
	// when the process ends, and when an embedded server restarts after its disk was full. An
	// embedded server without StoreDir has memory only.
	Storage jetstream.StorageType
}

// ackTimeout is how long one attempt to publish waits. A leader answers within milliseconds,
// and a dead leader never.
const ackTimeout = 1500 * time.Millisecond

// maxPrefix leaves space for the longest topic in a protocol line of 4,096 bytes, which is
// NATS's limit.
const maxPrefix = 64

// dedupe is how long JetStream recognizes a second attempt to publish the same publication.
const dedupe = 2 * time.Minute

func (o Options) withDefaults() (Options, error) {
	if o.Prefix == "" {
		o.Prefix = "live"
	}
	if o.PublishTimeout <= 0 {
		o.PublishTimeout = 10 * time.Second
	}
	if o.Linger <= 0 {
		o.Linger = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Default.Name == "" {
		o.Default.Name = strings.ToUpper(o.Prefix)
	}
	if o.Default.MaxMsgsPerTopic == 0 {
		o.Default.MaxMsgsPerTopic = 1000
	}
	if o.Default.MaxAge == 0 {
		o.Default.MaxAge = 7 * 24 * time.Hour
	}
	if o.Default.MaxBytes == 0 {
		o.Default.MaxBytes = 1 << 30
		o.shrinkDefault = true
	}
	o.DefaultKeyed.Keyed = true
	if o.DefaultKeyed.Name == "" {
		o.DefaultKeyed.Name = o.Default.Name + "_KEYED"
	}
	if o.DefaultKeyed.MaxBytes == 0 {
		o.DefaultKeyed.MaxBytes = 1 << 30
		o.shrinkKeyed = true
	}
	return o, o.check()
}

func (o *Options) check() error {
	external := len(o.Servers) > 0 || o.Conn != nil
	switch {
	case len(o.Servers) > 0 && o.Conn != nil:
		return errors.New("natsbroker: Options has both Servers and Conn")
	case external && o.Cluster != nil:
		return errors.New("natsbroker: Options.Cluster is for an embedded server, but Servers or Conn is set")
	case external && o.StoreDir != "":
		return errors.New("natsbroker: Options.StoreDir is for an embedded server, but Servers or Conn is set")
	case len(o.Connect) > 0 && len(o.Servers) == 0:
		return errors.New("natsbroker: Options.Connect is for Servers, but Servers is empty")
	case !isToken(o.Prefix):
		return fmt.Errorf("natsbroker: prefix %q is not one token of a subject", o.Prefix)
	case len(o.Prefix) > maxPrefix:
		return fmt.Errorf("natsbroker: prefix %.32q… is longer than %d bytes", o.Prefix, maxPrefix)
	case o.Default.Keyed:
		return errors.New("natsbroker: Options.Default cannot be Keyed: DefaultKeyed is")
	case len(o.DefaultKeyed.Subjects) > 0:
		return errors.New("natsbroker: Options.DefaultKeyed must not have Subjects: it is for topics that no other stream covers")
	case len(o.Default.Subjects) > 0:
		return errors.New("natsbroker: Options.Default must not have Subjects: it is for topics that no other stream covers")
	}
	names := make(map[string]bool)
	for _, c := range append([]StreamConfig{o.Default, o.DefaultKeyed}, o.Streams...) {
		if err := c.checkName(); err != nil {
			return err
		}
		if err := c.checkBounds(); err != nil {
			return err
		}
		if (c.Name == o.Default.Name || c.Name == o.DefaultKeyed.Name) && names[c.Name] {
			return fmt.Errorf("natsbroker: stream %q has the name of Options.Default or DefaultKeyed, which is made of Prefix unless it is set", c.Name)
		}
		if names[c.Name] {
			return fmt.Errorf("natsbroker: two streams are named %q", c.Name)
		}
		names[c.Name] = true
	}
	for _, c := range o.Streams {
		if err := c.check(); err != nil {
			return err
		}
	}
	return o.checkOverlaps()
}

// checkOverlaps returns an error if two streams cover the same topics, which NATS does not take.
func (o *Options) checkOverlaps() error {
	for i, a := range o.Streams {
		for _, b := range o.Streams[i+1:] {
			for _, subject := range a.Subjects {
				if other, ok := overlapping(subject, b.Subjects); ok {
					return fmt.Errorf("natsbroker: the Subjects %q of stream %q and %q of stream %q cover the same topics; give each topic one stream",
						subject, a.Name, other, b.Name)
				}
			}
		}
	}
	return nil
}

// storesOnDisk reports whether the embedded server keeps streams on a disk.
func (o *Options) storesOnDisk() bool {
	return o.StoreDir != "" && (o.Cluster == nil || !o.Cluster.NoStore)
}

// isToken reports whether s is one token of a subject, without wildcards.
func isToken(s string) bool {
	return s != "" && !strings.ContainsAny(s, ".*>$ \t\r\n\x00")
}

func (c *StreamConfig) checkName() error {
	if !isToken(c.Name) || strings.ContainsAny(c.Name, `/\`) {
		return fmt.Errorf("natsbroker: %q cannot be the name of a stream", c.Name)
	}
	return nil
}

func (c *StreamConfig) check() error {
	if err := c.checkName(); err != nil {
		return err
	}
	if len(c.Subjects) == 0 {
		return fmt.Errorf("natsbroker: stream %q covers no topic: Subjects is empty", c.Name)
	}
	for _, s := range c.Subjects {
		if _, err := encodePattern(s); err != nil {
			return fmt.Errorf("natsbroker: stream %q: %w", c.Name, err)
		}
	}
	for i, s := range c.Subjects {
		if other, ok := overlappingInStream(s, c.Subjects[i+1:]); ok {
			return fmt.Errorf("natsbroker: stream %q: its Subjects %q and %q cover the same topics, which NATS does not take; remove or narrow one", c.Name, s, other)
		}
	}
	return c.checkBounds()
}

func (c *StreamConfig) checkBounds() error {
	switch {
	case c.MaxMsgs < 0 || c.MaxMsgsPerTopic < 0 || c.MaxBytes < 0 || c.MaxAge < 0 || c.Replicas < 0:
		return fmt.Errorf("natsbroker: stream %q has a negative bound", c.Name)
	case c.Keyed && c.MaxMsgsPerTopic > 0:
		return fmt.Errorf("natsbroker: stream %q is Keyed, and keeps one publication of each key: MaxMsgsPerTopic must be 0", c.Name)
	case c.MaxAge > 0 && c.MaxAge < 100*time.Millisecond:
		return fmt.Errorf("natsbroker: stream %q: MaxAge is under 100 ms, the minimum of NATS", c.Name)
	}
	return nil
}
