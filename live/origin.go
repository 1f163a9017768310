package live

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// A page of another site could connect with the cookies of the person who reads it (cross-site
// WebSocket hijacking). So a browser says in every handshake where its page is from, as
// scheme, host and port (RFC 6454). The server refuses pages of other sites.

// checkOrigin returns an error if the page is from another site that the options do not allow.
func (s *Server) checkOrigin(r *http.Request) error {
	header := r.Header.Get("Origin")
	var ok bool
	allowed, advice := "pages of that host", originAdvice
	switch {
	case s.opts.CheckOrigin != nil:
		if err := s.guard("CheckOrigin", r, func() { ok = s.opts.CheckOrigin(r) }); err != nil {
			return err
		}
		allowed, advice = "what Options.CheckOrigin says", "have that say yes to it"
	case len(r.Header.Values("Origin")) > 1:
	case header == "":
		ok = true // the client is no browser
	default:
		ok = s.originAllowed(header, r.Host)
		if len(s.origins) > 0 {
			allowed += " and those in Options.Origins"
		}
	}
	if ok {
		return nil
	}
	header, host := shorten(header), shorten(r.Host)
	s.logOfClient(slog.LevelInfo, "live: page of another origin refused", "origin", header, "host", host, "allowed", allowed, "do", advice)
	return &refusal{http.StatusForbidden, fmt.Sprintf("forbidden origin %q: this server was called %q and allows %s; %s", header, host, allowed, advice), refusedOrigin}
}

// originAdvice tells the person who runs the server how to allow an origin.
const originAdvice = "list the origin in Options.Origins, or have the proxy pass on the Host header (nginx: proxy_set_header Host $http_host)"

func (s *Server) originAllowed(header, host string) bool {
	o, ok := parseOrigin(header)
	if ok && o.isOf(host) {
		return true
	}
	for _, rule := range s.origins {
		if rule.matches(header, o, ok) {
			return true
		}
	}
	return false
}

// shorten cuts a text of a client that is too long for the log.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// pageOrigin is the origin of a page.
type pageOrigin struct {
	scheme string // in lower case
	host   string // in lower case; an IP address in its shortest form
	port   string // never empty, unless the scheme has no port of its own
}

// parseOrigin reads the header Origin. ok is false for an invalid origin, and for "null". A browser
// sends "null" if the page has no origin, or if the server must not learn it.
func parseOrigin(header string) (o pageOrigin, ok bool) {
	u, err := url.Parse(header)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.User != nil || u.Path != "" || strings.ContainsAny(header, "?#%") {
		return pageOrigin{}, false
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return pageOrigin{}, false
		}
	}
	return pageOrigin{u.Scheme, canonicalHost(u.Hostname()), portOr(u.Port(), u.Scheme)}, true
}

func canonicalHost(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String()
	}
	return strings.ToLower(host)
}

// portOr returns port. If that is empty, it returns the default port of the scheme.
func portOr(port, scheme string) string {
	switch {
	case port != "":
		return port
	case scheme == "http":
		return "80"
	case scheme == "https":
		return "443"
	}
	return ""
}

// isOf reports whether the page is of the host that the request names: the server's own site. A
// proxy may have ended TLS, so the request does not say which scheme the client used. A missing port
// is therefore the default port of the page's scheme.
func (o pageOrigin) isOf(requestHost string) bool {
	u, err := url.Parse("//" + requestHost)
	return err == nil && canonicalHost(u.Hostname()) == o.host && portOr(u.Port(), o.scheme) == o.port
}

// originRule is one entry of Options.Origins.
type originRule struct {
	all    bool   // "*"
	exact  string // an origin without a host: "null" or "file://"
	scheme string // "": any scheme
	host   string // like the host of a pageOrigin, but '*' stands for one character or more
	port   string // "": the default port of the scheme; "*": any port
}

// matches reports whether the rule allows a page. header is its header Origin; o and ok are the
// results of parseOrigin.
func (r originRule) matches(header string, o pageOrigin, ok bool) bool {
	switch {
	case r.all:
		return true
	case !ok:
		return r.exact != "" && header == r.exact
	case r.exact != "", r.scheme != "" && r.scheme != o.scheme:
		return false
	}
	return (r.port == "*" || portOr(r.port, o.scheme) == o.port) && matchesHost(r.host, o.host)
}

// matchesHost reports whether a pattern matches a host: '*' stands for one character or more.
func matchesHost(pattern, host string) bool {
	parts := strings.Split(pattern, "*")
	last := len(parts) - 1
	if last == 0 {
		return pattern == host
	}
	rest, ok := strings.CutPrefix(host, parts[0])
	for _, part := range parts[1:last] { // if a part matches anywhere, its leftmost match is enough
		if !ok || rest == "" {
			return false
		}
		_, rest, ok = strings.Cut(rest[1:], part)
	}
	return ok && len(rest) > len(parts[last]) && strings.HasSuffix(rest, parts[last])
}

// originRules reads Options.Origins. It panics if no page can match an entry.
func originRules(entries []string) (rules []originRule) {
	for i, entry := range entries {
		rule, err := parseOriginRule(entry)
		if err != nil {
			panic(fmt.Sprintf("live: Options.Origins[%d], %q, can match no page: %v", i, entry, err))
		}
		rules = append(rules, rule)
	}
	return rules
}

// parseOriginRule reads an entry. It returns an error if no header of a browser can match the entry.
func parseOriginRule(entry string) (originRule, error) {
	switch entry {
	case "":
		return originRule{}, fmt.Errorf("it is empty")
	case "*":
		return originRule{all: true}, nil
	case "null":
		return originRule{exact: entry}, nil
	}
	scheme, rest, found := strings.Cut(entry, "://")
	if !found {
		scheme, rest = "", entry
	}
	scheme = strings.ToLower(scheme)
	switch {
	case found && !validScheme(scheme):
		return originRule{}, fmt.Errorf("%q is no scheme", scheme)
	case scheme == "ws", scheme == "wss":
		return originRule{}, fmt.Errorf("the origin is the page's, so it begins with http%s://", scheme[2:])
	case scheme == "file" && strings.Trim(rest, "/") == "":
		return originRule{exact: "file://"}, nil // Electron and Cordova send this; browsers send "null"
	}
	rest = strings.TrimSuffix(rest, "/")
	if i := strings.IndexAny(rest, `/\?#@`); i >= 0 {
		return originRule{}, fmt.Errorf("an origin is scheme, host and port: nothing like %q", rest[i:])
	}
	host, port, err := splitHost(rest)
	if err != nil {
		return originRule{}, err
	}
	if host, err = ruleHost(host, scheme == "" || scheme == "http" || scheme == "https"); err != nil {
		return originRule{}, err
	}
	if port != "" && port != "*" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return originRule{}, fmt.Errorf("%q is no port", port)
		}
		port = strconv.FormatUint(n, 10)
	}
	return originRule{scheme: scheme, host: host, port: port}, nil
}

func validScheme(s string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !('0' <= c && c <= '9') && !strings.ContainsRune("+-.", rune(c))) {
			return false
		}
	}
	return s != ""
}

// splitHost splits "host:port". The port may be missing.
func splitHost(s string) (host, port string, err error) {
	if inside, after, found := strings.Cut(strings.TrimPrefix(s, "["), "]"); found && s[0] == '[' {
		if ip, err := netip.ParseAddr(inside); err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", "", fmt.Errorf("%q is no IPv6 address that a browser would send", inside)
		}
		if after != "" && after[0] != ':' {
			return "", "", fmt.Errorf("%q stands after an IPv6 address", after)
		}
		return inside, strings.TrimPrefix(after, ":"), checkPortGiven(after)
	}
	host, port, found := strings.Cut(s, ":")
	if strings.Contains(port, ":") {
		return "", "", fmt.Errorf("an IPv6 address stands in brackets: [%s]", s)
	}
	if found {
		err = checkPortGiven(":" + port)
	}
	return host, port, err
}

func checkPortGiven(after string) error {
	if after == ":" {
		return fmt.Errorf("the port is missing")
	}
	return nil
}

// ruleHost returns the host of an entry as browsers write it. web says that the scheme is http or
// https. Hosts of other schemes are checked less, because they follow other rules.
func ruleHost(host string, web bool) (string, error) {
	if host == "" {
		return "", fmt.Errorf("the host is missing")
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), nil
	}
	for _, c := range host {
		switch {
		case c > '~':
			return "", fmt.Errorf("browsers send the host %q in its xn-- form (Punycode)", host)
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune("-._*", c):
		default:
			return "", fmt.Errorf("a host has no %q", c)
		}
	}
	last := strings.TrimSuffix(host, ".")
	last = last[strings.LastIndexByte(last, '.')+1:]
	switch {
	case !web:
	case last == "" || strings.Contains(host, "..") || host[0] == '.':
		return "", fmt.Errorf("a part of the host %q is empty", host)
	case isNumber(last) && !strings.Contains(host, "*"): // a browser takes such a host for an IP address
		return "", fmt.Errorf("%q is no IP address as browsers write it, and no name", host)
	}
	return strings.ToLower(host), nil
}

// isNumber reports whether a browser takes the last part of a host for a number (URL standard,
// "ends in a number").
func isNumber(s string) bool {
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(s, "0123456789") == ""
}
