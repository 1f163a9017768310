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
	// routePing and routePingsOut bound how long a link that passes nothing is taken for
	// a good one: two pings without an answer, and it is closed after four to six
	// seconds. Until then what is sent over it is lost. A shorter bound would close the
	// links of a node that only stood still for a moment.
	routePing     = 2 * time.Second
	routePingsOut = 2

	// routePool is how many connections two nodes have, besides one for the system. All
	// traffic is of one account, whose order a single connection keeps; it would use but
	// one of several.
	routePool = 1

	// routeErrorReports is how often a node that cannot be reached is logged: it is tried
	// each second, and with this once a minute is enough to see it.
	routeErrorReports = 60
)

// check reports what is wrong with c before anything starts.
func (c *Cluster) check(storeDir string) error {
	host, _, err := splitAddr("Listen", c.Listen)
	if err != nil {
		return err
	}
	if !c.NoStore && storeDir == "" {
		return errors.New("natsbroker: a node of a cluster needs a StoreDir, or Cluster.NoStore: " +
			"without a folder it would be another node after each start, and the majority that streams need counts all that ever were")
	}
	if !c.NoStore && len(c.Routes) == 0 {
		return errors.New("natsbroker: Cluster.Routes is empty: a node that stores must know where to look for others, be it where it is itself")
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

// checkAccess reports an error if just anybody could become a node, or no other node.
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
			"Cluster needs Username and Password, or TLS, lest anybody there reads and writes everything", c.Listen)
	}
	return nil
}

// apply makes so those of a node of the cluster.
func (c *Cluster) apply(so *server.Options, token string) {
	// A server that does not listen for clients never listens for routes either, and
	// Shutdown waits for ever (nats-server 2.15.2). So this one does, where only this
	// machine reaches it, and lets in who knows a token that nobody is told.
	so.DontListen = false
	so.Host, so.Port = "127.0.0.1", server.RANDOM_PORT
	so.Authorization = token

	host, port, _ := splitAddr("Listen", c.Listen) // checked
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
		NoAdvertise:  true, // of the port for clients, which is on each node's loopback
		PoolSize:     routePool,
		PingInterval: routePing,
		MaxPingsOut:  routePingsOut,
	}
	if c.TLS != nil {
		so.Cluster.TLSConfig, _ = c.routeTLS() // checked
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

// routeTLS is c.TLS as a node uses it in both roles. Without a password it is the
// certificate alone that lets a node in, so each has to show one.
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
		return nil, errors.New("natsbroker: Cluster.TLS without Username and Password needs a certificate for other nodes too: Certificates or GetClientCertificate")
	}
	if t.ClientCAs == nil {
		t.ClientCAs = t.RootCAs
	}
	if t.ClientCAs == nil {
		return nil, errors.New("natsbroker: Cluster.TLS without Username and Password needs ClientCAs or RootCAs, lest any certificate lets a node in")
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	return t, nil
}

// checkPeer reports an error if addr, of the named field of Cluster, is not the
// address of a node that others can connect to.
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

// isLoopback reports whether only this machine reaches host. A name may stand for
// anything but localhost.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
