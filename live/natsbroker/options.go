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

// Options says where NATS is and what it keeps. The zero value is a server in this
// process that opens no port and keeps streams in memory.
type Options struct {
	// StoreDir is the folder in which the embedded server keeps streams; it is made
	// if need be, and belongs to one process at a time. What a lone server has kept a
	// cluster cannot take over, nor the other way round: that is an error. "": streams
	// are kept in memory and end with the process.
	StoreDir string

	// SyncAlways has every publication of a stream on the disk, not only with the
	// operating system, before it is acknowledged. Without it a process that dies loses
	// nothing, and a machine that loses power up to two minutes. Clients that resume are
	// then told of a gap, whether something was lost or not. On systems other than Linux
	// they are told so after each end of the process that was not a stop.
	SyncAlways bool

	// Name is the embedded server's, which must be no other's in its cluster and stay
	// the same as long as its StoreDir. "": a random one, kept in StoreDir.
	Name string

	// Cluster makes the embedded server a member of a cluster of such. nil: it is
	// alone.
	Cluster *Cluster

	// Servers are the URLs of a NATS that runs elsewhere, as "nats://10.0.0.1:4222";
	// nothing is embedded then. It need not be up yet. If it is one server, and is
	// restarted while no instance of the application runs, clients that resume are told of
	// a gap: nobody knows whether its streams are whole.
	Servers []string

	// Connect are further options for the connection to Servers: credentials, TLS. It must
	// keep its own messages and reconnect for ever, so New refuses nats.NoEcho,
	// nats.NoReconnect and a nats.MaxReconnects that is not negative. With
	// nats.RetryOnFailedConnect(false) New fails while NATS is down.
	Connect []nats.Option

	// Conn is a connection of the application's own to be used instead of Servers. It is
	// not closed by Close. New refuses one with nats.NoEcho, on which a server would not
	// hear what it publishes. Its buffer for what is sent while NATS is away is not
	// used: Publish fails then. When nats.MaxReconnects of it is reached it is closed for
	// good, and so is the broker; nats.MaxReconnects(-1) never gives up.
	Conn *nats.Conn

	// Domain is the JetStream domain in which the streams are, for leaf nodes. "": that
	// of the server.
	Domain string

	// Prefix is the first token of all subjects that are used, up to 64 bytes. Applications
	// that share a NATS each have their own, and streams of different names: a stream
	// belongs to one prefix. "": "live".
	Prefix string

	// Streams keep the history of the topics that their Subjects cover. They are created,
	// or updated, when New is called; where that has to wait for others, in the
	// background: see Ready.
	Streams []StreamConfig

	// Default is the stream of topics that keep history by the server's TopicOptions,
	// and are covered by none of Streams. It is created when it is first needed; its
	// Subjects must be empty. What is zero in it is: the Name, Prefix in capitals;
	// MaxMsgsPerTopic, 1,000, as many as one client can get at once; MaxAge, a week;
	// MaxBytes, a gigabyte, or half of what an embedded server has for all streams if that
	// is less; a NATS elsewhere that has not that much is asked for less.
	Default StreamConfig

	// PublishTimeout is how long a publication may wait for its acknowledgement. 0: 10 s,
	// longer than the four to nine seconds in which a cluster elects another leader.
	PublishTimeout time.Duration

	// Linger is how long a topic stays subscribed at NATS after its last subscriber here
	// has gone. 0: 10 s, so that a page that is loaded anew does not tell a whole cluster.
	Linger time.Duration

	// Logger gets what the broker and the embedded server have to say. nil:
	// slog.Default().
	Logger *slog.Logger

	shrinkDefault bool // the size of Options.Default is not the application's own choice
}

// Cluster makes the embedded server a member of a cluster of such.
//
// Streams need a majority of the nodes that store, whether they are up or not, so
// these are few and fixed: three, or five. Others have NoStore.
type Cluster struct {
	// Name is the cluster's. "": "livetopic".
	Name string

	// Listen is the host and port where the other nodes reach this one, as
	// "10.0.0.1:6222". Port 0: any that is free.
	Listen string

	// Advertise is what the others are told instead of Listen. "": Listen.
	Advertise string

	// Routes are the host and port of other nodes. Some suffice, since nodes tell of
	// each other, and so does one name that resolves to all. This node may be among
	// them; one that stores must name at least one.
	Routes []string

	// Username and Password are the same for all nodes. Whoever has them reads and
	// writes everything. Without them, or TLS, Listen must be a loopback address.
	Username, Password string

	// TLS secures the lines between nodes, in both directions. Without a password nodes
	// must show certificates that RootCAs or ClientCAs have signed. nil: no TLS.
	TLS *tls.Config

	// NoStore says that this node keeps no streams: for web nodes that come and go
	// beside those that store.
	NoStore bool
}

// StreamConfig is a JetStream stream: which topics it covers and what it keeps of
// them. Zero is no bound.
type StreamConfig struct {
	// Name is the stream's, without blanks, dots and slashes. It is the name in NATS too, where
	// a stream with that name may be somebody else's: see ErrNotOurs.
	Name string

	// Subjects are topics, or patterns as NATS writes them: "*" stands for one part of
	// a topic and a final ">" for one or more. The parts of a topic are between dots and
	// colons; a pattern covers topics with dots and those with colons, whichever it is
	// written with: "chat.>" and "chat:>" both cover "chat.room.1" and "chat:room:1",
	// which are two topics.
	Subjects []string

	MaxMsgs         int64         // publications in the stream
	MaxMsgsPerTopic int64         // publications of one topic, so that a busy one does not drive out the others'
	MaxBytes        int64         // of the whole stream
	MaxAge          time.Duration // of a publication, 100 ms or more

	// Replicas is on how many nodes of a cluster the stream is kept: 1, 3 or 5. 0: 3 on
	// embedded clusters, else 1.
	Replicas int

	// Storage is where: jetstream.FileStorage, or MemoryStorage, which is lost with the
	// process, and when an embedded server is restarted because its disk was full. An
	// embedded server without StoreDir has memory alone.
	Storage jetstream.StorageType
}

// ackTimeout is how long one attempt to publish waits. A leader answers within
// milliseconds; one that died does not.
const ackTimeout = 1500 * time.Millisecond

// maxPrefix leaves space for the longest topic in a line of 4,096 bytes, NATS's limit.
const maxPrefix = 64

// dedupe is how long JetStream recognizes a publication that is tried again.
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
	return o, o.check()
}

func (o *Options) check() error {
	external := len(o.Servers) > 0 || o.Conn != nil
	switch {
	case len(o.Servers) > 0 && o.Conn != nil:
		return errors.New("natsbroker: Options has both Servers and Conn")
	case external && o.Cluster != nil:
		return errors.New("natsbroker: Options.Cluster is of an embedded server; with Servers or Conn there is none")
	case external && o.StoreDir != "":
		return errors.New("natsbroker: Options.StoreDir is an embedded server's; with Servers or Conn there is none")
	case len(o.Connect) > 0 && len(o.Servers) == 0:
		return errors.New("natsbroker: Options.Connect is for Servers, and there are none")
	case !isToken(o.Prefix):
		return fmt.Errorf("natsbroker: prefix %q is not one token of a subject", o.Prefix)
	case len(o.Prefix) > maxPrefix:
		return fmt.Errorf("natsbroker: prefix %.32q… is longer than %d bytes", o.Prefix, maxPrefix)
	case len(o.Default.Subjects) > 0:
		return errors.New("natsbroker: Options.Default has Subjects; it is for topics that no other stream covers")
	}
	names := make(map[string]bool)
	for _, c := range append([]StreamConfig{o.Default}, o.Streams...) {
		if err := c.checkName(); err != nil {
			return err
		}
		if c.Name == o.Default.Name && names[c.Name] {
			return fmt.Errorf("natsbroker: stream %q has the name of Options.Default, which is Prefix in capitals unless it is set", c.Name)
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
	return nil
}

// isToken reports whether s is one plain token of a subject.
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
	switch {
	case c.MaxMsgs < 0 || c.MaxMsgsPerTopic < 0 || c.MaxBytes < 0 || c.MaxAge < 0 || c.Replicas < 0:
		return fmt.Errorf("natsbroker: stream %q has a negative bound", c.Name)
	case c.MaxAge > 0 && c.MaxAge < 100*time.Millisecond:
		return fmt.Errorf("natsbroker: stream %q: MaxAge is under 100 ms, the least that NATS takes", c.Name)
	}
	return nil
}
