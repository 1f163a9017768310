package inspector

import (
	"errors"
	"net"
	"net/http"
)

var (
	errRemote  = errors.New("the request comes from another machine")
	errProxied = errors.New("the request comes through a proxy")
	errHost    = errors.New("the request names a host that is not this machine")
)

// Loopback is an Auth for development. It lets in the browsers of this machine, which ask for localhost
// or a loopback address. A page whose name an attacker points at this machine (DNS rebinding) asks
// for that name, and is refused.
//
// Do not use Loopback behind a proxy on the same machine. Everybody who reaches the proxy would come from
// this machine. Loopback refuses a request with a header of a proxy, such as X-Forwarded-For, and one of
// HTTP/1.0, which old versions of nginx speak. But a proxy may send HTTP/1.1 and no such header.
func Loopback(r *http.Request) error {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil || !isLoopback(host) {
		return errRemote
	}
	if !r.ProtoAtLeast(1, 1) { // no browser speaks HTTP/1.0
		return errProxied
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "Via"} {
		if _, proxied := r.Header[name]; proxied {
			return errProxied
		}
	}
	host = r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host != "localhost" && !isLoopback(host) {
		return errHost
	}
	return nil
}

func isLoopback(host string) bool {
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	return net.ParseIP(host).IsLoopback()
}
