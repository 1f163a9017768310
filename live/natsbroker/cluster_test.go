package natsbroker

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live/internal/clock"
)

func TestClusterSaysWhatIsWrong(t *testing.T) {
	pair, pool := certificate(t)
	certs := []tls.Certificate{pair}
	for _, test := range []struct {
		name string
		c    Cluster
		want string // "": there is no error
	}{
		{"no address", Cluster{}, `Cluster.Listen: "" is not a host and a port`},
		{"no port", Cluster{Listen: "127.0.0.1"}, `Cluster.Listen: "127.0.0.1" is not a host and a port`},
		{"port of no number", Cluster{Listen: "127.0.0.1:http"}, `is not a host and a port`},
		{"large port", Cluster{Listen: "127.0.0.1:65536"}, `is not a host and a port`},
		{"URL", Cluster{Listen: "nats://127.0.0.1:6222"}, `is not a host and a port`},
		{"credentials in a route", Cluster{Listen: "127.0.0.1:0", Routes: []string{"a:b@h:1"}}, `Cluster.Routes: "a:b@h:1" is not a host and a port`},
		{"route without a port", Cluster{Listen: "127.0.0.1:0", Routes: []string{"h:1", "h:0"}}, `Cluster.Routes: "h:0" lacks a host or a port`},
		{"route without a host", Cluster{Listen: "127.0.0.1:0", Routes: []string{":6222"}}, `Cluster.Routes: ":6222" lacks a host or a port`},
		{"advertised without a host", Cluster{Listen: "127.0.0.1:0", Advertise: ":6222"}, `Cluster.Advertise: ":6222" lacks a host or a port`},
		{"name with a blank", Cluster{Listen: "127.0.0.1:0", Name: "a b"}, `Cluster.Name "a b" has blanks`},
		{"user without a password", Cluster{Listen: "127.0.0.1:0", Username: "u"}, "both Username and Password"},
		{"password without a user", Cluster{Listen: "127.0.0.1:0", Password: "p"}, "both Username and Password"},
		{"hash", Cluster{Listen: "127.0.0.1:0", Username: "u", Password: "$2a$10$xyz"}, "must not be a bcrypt hash"},

		{"all addresses", Cluster{Listen: "0.0.0.0:0"}, "can be reached from other machines"},
		{"no host", Cluster{Listen: ":0"}, "can be reached from other machines"},
		{"an address", Cluster{Listen: "10.0.0.1:0"}, "can be reached from other machines"},
		{"IPv6", Cluster{Listen: "[::]:0"}, "can be reached from other machines"},
		{"a name", Cluster{Listen: "node1:0"}, "can be reached from other machines"},
		{"all addresses, password", Cluster{Listen: "0.0.0.0:0", Username: "u", Password: "p"}, ""},
		{"loopback", Cluster{Listen: "127.0.0.1:0"}, ""},
		{"IPv6 loopback", Cluster{Listen: "[::1]:0"}, ""},
		{"localhost", Cluster{Listen: "localhost:0"}, ""},

		{"TLS", Cluster{Listen: ":0", TLS: &tls.Config{Certificates: certs, RootCAs: pool}}, ""},
		{"TLS without a certificate", Cluster{Listen: ":0", TLS: &tls.Config{RootCAs: pool}}, "has no certificate"},
		{"TLS that trusts everybody", Cluster{Listen: ":0", TLS: &tls.Config{Certificates: certs}}, "needs ClientCAs or RootCAs"},
		{"TLS that trusts everybody with a password", Cluster{Listen: ":0", Username: "u", Password: "p", TLS: &tls.Config{Certificates: certs}}, ""},
		{"TLS for servers only", Cluster{Listen: ":0", TLS: &tls.Config{RootCAs: pool, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }}}, "GetClientCertificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.c.NoStore = true
			err := test.c.check("")
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "natsbroker: ") || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want: … %s …", err, test.want)
			}
		})
	}
}

func TestNodeThatStoresNeedsAFolderAndRoutes(t *testing.T) {
	for _, test := range []struct {
		dir    string
		routes []string
		want   []string
	}{
		{"", []string{nobody}, []string{"StoreDir", "NoStore", "a new node after each start"}},
		{t.TempDir(), nil, []string{"Cluster.Routes is empty"}},
	} {
		o := Options{StoreDir: test.dir, Cluster: &Cluster{Listen: "127.0.0.1:0", Routes: test.routes}, Logger: slog.New(slog.DiscardHandler)}
		for _, part := range test.want {
			mustNotStart(t, o, part)
		}
	}
}

// certificate returns a certificate for nodes on 127.0.0.1, and a pool that trusts only this
// certificate.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// startWeb starts a node without streams in the cluster of c.
func startWeb(t *testing.T, c Cluster, routes ...string) *embedded {
	t.Helper()
	c.Listen = "127.0.0.1:0"
	c.NoStore = true
	c.Routes = routes
	return startNode(t, Options{Cluster: &c})
}

// awaitPassage waits until a publication at one node arrives at the other.
func awaitPassage(t *testing.T, from, to *embedded) {
	t.Helper()
	a, b := connectTo(t, from), connectTo(t, to)
	sub, err := b.SubscribeSync("passage")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a message from one node to the other", func() bool {
		if err := a.Publish("passage", nil); err != nil {
			t.Fatal(err)
		}
		_, err := sub.NextMsg(10 * time.Millisecond) // the other node must first hear of the subscription
		return err == nil
	})
}

// mustNotStart fails the test unless a server with these options is refused for the given
// reason.
func mustNotStart(t *testing.T, o Options, why string) {
	t.Helper()
	e, err := startEmbedded(o)
	if err == nil {
		stopNode(t, e)
		t.Fatal("it starts")
	}
	if !strings.HasPrefix(err.Error(), "natsbroker: ") || !strings.Contains(err.Error(), why) {
		t.Errorf("%v, want: … %s …", err, why)
	}
}

func TestNodesMeet(t *testing.T) {
	pair, pool := certificate(t)
	secure := &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}
	for name, c := range map[string]Cluster{
		"plain":            {},
		"password":         {Username: "node", Password: "s:e/c@r%t"},
		"TLS":              {TLS: secure},
		"TLS and password": {TLS: secure, Username: "node", Password: "secret"},
	} {
		t.Run(name, func(t *testing.T) {
			a := startWeb(t, c)
			b := startWeb(t, c, clusterAddr(a))
			waitFor(t, "two nodes to meet", func() bool { return routesOf(a) == 1 && routesOf(b) == 1 })
			awaitPassage(t, a, b)
			awaitPassage(t, b, a)
		})
	}
}

func TestStrangersDoNotMeet(t *testing.T) {
	pair, pool := certificate(t)
	stranger, _ := certificate(t)
	secure := func(p tls.Certificate) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{p}, RootCAs: pool}
	}
	for _, test := range []struct {
		name   string
		member Cluster
		other  Cluster
		sign   string // a text in the member's log
	}{
		{"no password", Cluster{Username: "node", Password: "secret"}, Cluster{}, "authentication error"},
		{"wrong password", Cluster{Username: "node", Password: "secret"}, Cluster{Username: "node", Password: "guess"}, "authentication error"},
		{"no TLS", Cluster{TLS: secure(pair)}, Cluster{}, "TLS route handshake error"},
		{"certificate of another", Cluster{TLS: secure(pair)}, Cluster{TLS: secure(stranger)}, "TLS route handshake error"},
		{"another cluster", Cluster{}, Cluster{Name: "other"}, "Cluster Name Conflict"},
	} {
		t.Run(test.name, func(t *testing.T) {
			book := &logBook{least: slog.LevelDebug}
			test.member.Listen, test.member.NoStore = "127.0.0.1:0", true
			a := startNode(t, Options{Cluster: &test.member, Logger: slog.New(book)})
			startWeb(t, test.other, clusterAddr(a))
			waitFor(t, "a refusal", func() bool { return len(book.find(test.sign)) > 0 })
			// The other node may take it for a route until it is told.
			if routesOf(a) != 0 {
				t.Errorf("the member has %d routes", routesOf(a))
			}
		})
	}
}

// One node tells another node of a third.
func TestNodesTellOfEachOther(t *testing.T) {
	c := Cluster{Username: "node", Password: "secret"}
	first := startWeb(t, c)
	all := []*embedded{first, startWeb(t, c, clusterAddr(first)), startWeb(t, c, clusterAddr(first))}
	waitFor(t, "three nodes to meet", func() bool {
		return !slices.ContainsFunc(all, func(e *embedded) bool { return routesOf(e) != 2 })
	})
	awaitPassage(t, all[1], all[2])
}

func TestRoutesMayNameTheNodeItself(t *testing.T) {
	addrs := livetest.FreeAddresses(t, 3)
	var all []*embedded
	book := &logBook{least: slog.LevelWarn}
	for _, a := range addrs {
		all = append(all, startNode(t, Options{
			Logger:  slog.New(book),
			Cluster: &Cluster{Listen: a, NoStore: true, Routes: addrs},
		}))
	}
	waitFor(t, "three nodes to meet", func() bool {
		return !slices.ContainsFunc(all, func(e *embedded) bool { return routesOf(e) != 2 })
	})
	awaitPassage(t, all[0], all[2])
	if found := book.find("duplicate"); len(found) > 0 {
		t.Errorf("logged: %s", found)
	}
}

// Two nodes have the same name, as if one ran on a copy of the other's folder. The node to which the other
// tries to connect says so until one of them stops. The log has a line, and not one for each attempt.
func TestNodesOfOneNameSaySo(t *testing.T) {
	addrs := livetest.FreeAddresses(t, 3)
	book := &logBook{least: slog.LevelWarn}
	node := func(i int, name string) *Broker {
		b, err := New(Options{Name: name, Logger: slog.New(book), Cluster: &Cluster{Listen: addrs[i], NoStore: true, Routes: addrs[:2]}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close(context.Background()) })
		return b
	}
	node(0, "hub")
	one, other := node(1, "twin"), node(2, "twin") // the other has the address of the one
	waitFor(t, "a node to notice", func() bool { return errors.Is(notReady(one), errTwin) })
	heard := one.server.twinUntil.Load()
	waitFor(t, "another attempt to connect", func() bool { return one.server.twinUntil.Load() > heard })
	if found := book.find(twinReport); len(found) > 2 {
		t.Errorf("logged: %q", found)
	}
	other.Close(t.Context())
	one.server.twinUntil.Store(clock.Now()) // instead of waiting for twinFor
	waitFor(t, "the node that is left to be ready", func() bool { return notReady(one) == nil })
}

// A server in a cluster has a port for clients, because without it there would be no port for
// nodes. Other processes cannot use it.
func TestClientsOfOtherProcessesAreRefused(t *testing.T) {
	e := startWeb(t, Cluster{})
	addr := e.srv.Addr().(*net.TCPAddr)
	if !addr.IP.IsLoopback() {
		t.Errorf("clients are listened for on %v", addr)
	}
	for name, o := range map[string]nats.Option{"no token": nil, "wrong token": nats.Token("guess")} {
		var options []nats.Option
		if o != nil {
			options = append(options, o)
		}
		nc, err := nats.Connect("nats://"+addr.String(), options...)
		if err == nil {
			nc.Close()
			t.Errorf("%s: it connects", name)
		}
	}
	if err := connectTo(t, e).Flush(); err != nil {
		t.Error(err)
	}
}

// Nodes on different machines all have their port for clients on 127.0.0.1. A client must not
// look there for another node's port.
func TestClientsAreNotToldOfOtherNodes(t *testing.T) {
	a := startWeb(t, Cluster{})
	b := startWeb(t, Cluster{}, clusterAddr(a))
	nc := connectTo(t, a)
	waitFor(t, "two nodes to meet", func() bool { return routesOf(a) == 1 && routesOf(b) == 1 })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if servers := nc.DiscoveredServers(); len(servers) > 0 {
		t.Errorf("the client was told of %v", servers)
	}
}

func TestOneNodeOfThreeStartsAlone(t *testing.T) {
	m := newMesh(t)
	began := time.Now()
	m.start(0)
	t.Logf("up in %v", time.Since(began))
	e := m.nodes[0]
	awaitPassage(t, e, e)
	if e.srv.JetStreamIsLeader() {
		t.Error("one node of three leads")
	}
	began = time.Now()
	m.kill(0)
	t.Logf("down in %v", time.Since(began))

	m.heal(0)
	m.start(0, 1)
	waitFor(t, "a majority to elect a leader", func() bool {
		return m.nodes[0].srv.JetStreamIsLeader() || m.nodes[1].srv.JetStreamIsLeader()
	})
}

func TestNodeWithoutStreamsUsesThoseOfOthers(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.start(0, 1, 2)
	m.awaitWhole()
	c := *m.options(0).Cluster
	web := startWeb(t, c, clusterAddr(m.nodes[0]), clusterAddr(m.nodes[1]), clusterAddr(m.nodes[2]))
	if web.srv.JetStreamEnabled() {
		t.Error("it has streams")
	}
	js := streamsOf(t, web)
	replicate(t, js)
	waitFor(t, "a publication", func() bool {
		_, err := js.Publish(t.Context(), "s.a", []byte("1"))
		return err == nil
	})
	for i := range m.nodes {
		s, err := streamsOf(t, m.nodes[i]).Stream(t.Context(), "S")
		if err != nil {
			t.Fatal(err)
		}
		if msg, err := s.GetLastMsgForSubject(t.Context(), "s.a"); err != nil || string(msg.Data) != "1" {
			t.Errorf("node %d: %v, %v", i, msg, err)
		}
	}
}

// replicate makes a stream on all nodes of a mesh, whose leader may not be elected yet.
func replicate(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	config := jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Replicas: meshSize}
	waitFor(t, "a stream on three nodes", func() bool {
		// While there is no leader, requests get no answer.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := js.CreateStream(ctx, config)
		return err == nil
	})
}

func TestStopWaitsForNoOtherNode(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	m.start(0, 1, 2)
	m.awaitWhole()
	replicate(t, streamsOf(t, m.nodes[0]))
	m.isolate(0, linkBlackhole)
	for i := range m.nodes {
		began := time.Now()
		m.shutdown(i)
		t.Logf("node %d: down in %v", i, time.Since(began))
	}
}
