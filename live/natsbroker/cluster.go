package natsbroker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// routePing and routePingsOut bound how long a route that carries nothing stays open: after
	// two pings without an answer it is closed, within four to six seconds. Until then
	// everything that is sent over it is lost. A shorter time would close the routes of a node
	// that only paused for a moment.
	routePing     = 2 * time.Second
	routePingsOut = 2

	// routePool is how many connections a route has, besides the one for the system account.
	// All traffic is of one account, and NATS sends an account's traffic over one connection to
	// keep its order. More connections would stay unused.
	routePool = 1

	// routeErrorReports is how many failed attempts to reach a node make one line in the log.
	// There is one attempt a second, and one line a minute suffices.
	routeErrorReports = 60
)

// check returns what is wrong with c, before anything starts.
func (c *Cluster) check(storeDir string) error {
	host, _, err := splitAddr("Listen", c.Listen)
	if err != nil {
		return err
	}
	if !c.NoStore && storeDir == "" {
		return errors.New("natsbroker: a node of a cluster needs a StoreDir, or Cluster.NoStore: " +
			"without a folder it would be a new node after each start, and the majority of a stream counts all former nodes")
	}
	if !c.NoStore && len(c.Routes) == 0 {
		return errors.New("natsbroker: Cluster.Routes is empty: a node that stores needs the address of another node, or at least its own")
	}
	if strings.ContainsAny(c.Name, " \t\r\n") {
		return fmt.Errorf("natsbroker: Cluster.Name %q has blanks", c.Name)
	}
	if c.Advertise != "" {
		if err := checkPeer("Advertise", c.Advertise); err != nil {
			return err
		}
	}
	for _, r := range c.Routes {
		if err := checkPeer("Routes", r); err != nil {
			return err
		}
	}
	return c.checkAccess(host)
}

// checkAccess returns an error if everybody could become a node, or if no other node could.
func (c *Cluster) checkAccess(host string) error {
	switch {
	case (c.Username == "") != (c.Password == ""):
		return errors.New("natsbroker: Cluster needs both Username and Password, or neither")
	case strings.HasPrefix(c.Password, "$2"):
		return errors.New("natsbroker: Cluster.Password must not be a bcrypt hash: nodes also send it to each other")
	case c.TLS != nil:
		_, err := c.routeTLS()
		return err
	case c.Username == "" && !isLoopback(host):
		return fmt.Errorf("natsbroker: Cluster.Listen %q can be reached from other machines: "+
			"Cluster needs Username and Password, or TLS; otherwise everybody there could read and write everything", c.Listen)
	}
	return nil
}

// apply makes so the options of a node of the cluster. Its clients need the token.
func (c *Cluster) apply(so *server.Options, token string) {
	// A server that does not listen for clients does not listen for routes either, and its
	// Shutdown never returns (nats-server 2.15.2). So the server listens on the loopback
	// address, and needs a token that only this process knows.
	so.DontListen = false
	so.Host, so.Port = "127.0.0.1", server.RANDOM_PORT
	so.Authorization = token

	host, port, _ := splitAddr("Listen", c.Listen) // check has seen its errors
	if port == 0 {
		port = server.RANDOM_PORT
	}
	so.Cluster = server.ClusterOpts{
		Name:         c.name(),
		Host:         host,
		Port:         port,
		Username:     c.Username,
		Password:     c.Password,
		Advertise:    c.Advertise,
		NoAdvertise:  true, // do not advertise the port for clients, which is on the loopback of each node
		PoolSize:     routePool,
		PingInterval: routePing,
		MaxPingsOut:  routePingsOut,
	}
	if c.TLS != nil {
		so.Cluster.TLSConfig, _ = c.routeTLS() // check has seen its errors
	}
	for _, r := range c.Routes {
		so.Routes = append(so.Routes, c.routeURL(r))
	}
	so.ConnectErrorReports = routeErrorReports
	so.ReconnectErrorReports = routeErrorReports
}

func (c *Cluster) name() string {
	if c.Name == "" {
		return "livetopic"
	}
	return c.Name
}

func (c *Cluster) routeURL(addr string) *url.URL {
	u := &url.URL{Scheme: "nats-route", Host: addr}
	if c.Username != "" {
		u.User = url.UserPassword(c.Username, c.Password)
	}
	return u
}

// routeTLS returns c.TLS for both roles of a node. Without a password only the certificate
// admits a node, so each node must show a certificate.
func (c *Cluster) routeTLS() (*tls.Config, error) {
	t := c.TLS.Clone()
	serves := len(t.Certificates) > 0 || t.GetCertificate != nil || t.GetConfigForClient != nil
	if !serves {
		return nil, errors.New("natsbroker: Cluster.TLS has no certificate, and every node is a TLS server")
	}
	if c.Username != "" {
		return t, nil
	}
	if len(t.Certificates) == 0 && t.GetClientCertificate == nil {
		return nil, errors.New("natsbroker: Cluster.TLS without Username and Password needs a certificate to show to other nodes: Certificates or GetClientCertificate")
	}
	if t.ClientCAs == nil {
		t.ClientCAs = t.RootCAs
	}
	if t.ClientCAs == nil {
		return nil, errors.New("natsbroker: Cluster.TLS without Username and Password needs ClientCAs or RootCAs; otherwise every certificate would admit a node")
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	return t, nil
}

// checkPeer returns an error if other nodes cannot connect to addr, which is from the named
// field of Cluster.
func checkPeer(field, addr string) error {
	host, port, err := splitAddr(field, addr)
	if err != nil {
		return err
	}
	if host == "" || port == 0 {
		return fmt.Errorf("natsbroker: Cluster.%s: %q lacks a host or a port", field, addr)
	}
	return nil
}

// splitAddr splits an address of the named field of Cluster, as "10.0.0.1:6222".
func splitAddr(field, addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 0 || port > 65535 || strings.ContainsAny(host, "/@ \t\r\n") {
		return "", 0, fmt.Errorf("natsbroker: Cluster.%s: %q is not a host and a port as in \"10.0.0.1:6222\"", field, addr)
	}
	return host, port, nil
}

// isLoopback reports whether only this machine reaches host. Of all names, only "localhost" is
// sure to be the loopback.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
