package live

import (
	"strings"
	"testing"
)

// Origins are compared as a browser means them (RFC 6454), not as strings.
func TestOriginsAreCompared(t *testing.T) {
	const yes, no = true, false
	tests := []struct {
		origins string // separated by spaces
		host    string // that the request names
		origin  string
		want    bool
	}{
		// The server's own pages.
		{"", "app.example", "https://app.example", yes},
		{"", "app.example", "http://app.example", yes},
		{"", "app.example", "https://APP.Example", yes},
		{"", "APP.example", "https://app.example", yes},
		{"", "app.example:443", "https://app.example", yes},
		{"", "app.example", "https://app.example:443", yes},
		{"", "app.example:80", "http://app.example", yes},
		{"", "app.example:80", "https://app.example", no},
		{"", "app.example:8443", "https://app.example:8443", yes},
		{"", "app.example", "https://app.example:8443", no},
		{"", "app.example:8443", "https://app.example", no},
		{"", "app.example", "https://evil.example", no},
		{"", "app.example", "https://app.example.evil.example", no},
		{"", "app.example", "https://evilapp.example", no},
		{"", "app.example", "https://app.example@evil.example", no},
		{"", "app.example", "https://evil.example/app.example", no},
		{"", "app.example", "https://app.example/", no}, // no browser sends it
		{"", "app.example", "https://app.example?x", no},
		{"", "app.example", "null", no},
		{"", "app.example", "app.example", no},
		{"", "app.example", "//app.example", no},
		{"", "app.example", "https://", no},
		{"", "", "https://", no},
		{"", "", "null", no},
		{"", "[::1]:8080", "http://[::1]:8080", yes},
		{"", "[0:0:0:0:0:0:0:1]:8080", "http://[::1]:8080", yes},
		{"", "[::1]", "http://[::1]", yes},
		{"", "[::1]", "http://[::2]", no},
		{"", "127.0.0.1:8080", "http://localhost:8080", no},
		{"", "localhost", "capacitor://localhost", yes},

		// Entries.
		{"https://a.example", "x", "https://a.example", yes},
		{"https://a.example/", "x", "https://a.example", yes},
		{"HTTPS://A.Example", "x", "https://a.example", yes},
		{"https://a.example:443", "x", "https://a.example", yes},
		{"https://a.example:0443", "x", "https://a.example", yes},
		{"https://a.example", "x", "https://a.example:443", yes},
		{"https://a.example", "x", "http://a.example", no},
		{"https://a.example", "x", "https://a.example:8443", no},
		{"https://a.example", "x", "https://b.a.example", no},
		{"http://a.example:80", "x", "http://a.example", yes},
		{"http://a.example:443", "x", "https://a.example", no},
		{"a.example", "x", "https://a.example", yes},
		{"a.example", "x", "http://a.example", yes},
		{"a.example", "x", "http://a.example:8080", no},
		{"a.example:8080", "x", "http://a.example:8080", yes},
		{"a.example:443", "x", "https://a.example", yes},
		{"localhost:5173", "x", "http://localhost:5173", yes},
		{"http://localhost:*", "x", "http://localhost:5173", yes},
		{"http://localhost:*", "x", "http://localhost", yes},
		{"http://localhost:*", "x", "https://localhost:5173", no},
		{"http://[0:0::1]:8080", "x", "http://[::1]:8080", yes},
		{"[::1]", "x", "https://[::1]", yes},
		{"127.0.0.1:3000", "x", "http://127.0.0.1:3000", yes},
		{"https://*.a.example", "x", "https://b.a.example", yes},
		{"https://*.a.example", "x", "https://c.b.a.example", yes},
		{"https://*.a.example", "x", "https://a.example", no},
		{"https://*.a.example", "x", "https://.a.example", no},
		{"https://*.a.example", "x", "https://eviLa.example", no},
		{"https://*.a.example", "x", "https://b.a.example.evil.example", no},
		{"https://*.a.example", "x", "http://b.a.example", no},
		{"https://app-*.a.example", "x", "https://app-17.a.example", yes},
		{"https://app-*.a.example", "x", "https://app-.a.example", no},
		{"https://*-pr-*.a.example", "x", "https://web-pr-17.a.example", yes},
		{"https://*", "x", "https://any.example", yes},
		{"https://*", "x", "http://any.example", no},
		{"*:8080", "x", "http://any.example:8080", yes},
		{"capacitor://localhost", "x", "capacitor://localhost", yes},
		{"chrome-extension://abcdef", "x", "chrome-extension://abcdef", yes},
		{"https://xn--bcher-kva.example", "x", "https://xn--bcher-kva.example", yes},
		{"null", "x", "null", yes},
		{"null", "x", "https://a.example", no},
		{"https://a.example", "x", "null", no},
		{"http://4f9c2a1b3d5e:8080", "x", "http://4f9c2a1b3d5e:8080", yes}, // a container's name
		{"http://1stserver", "x", "http://1stserver", yes},
		{"https://app.2nd", "x", "https://app.2nd", yes},
		{"moz-extension://2b1c7a3e-5f6d", "x", "moz-extension://2b1c7a3e-5f6d", yes},
		{"app://.", "x", "app://.", yes},
		{"https://*.a.example", "x", "https://[::1%25.a.example]", no},
		{"https://*.a.example", "x", "https://[fe80::1%25x.a.example]", no},
		{"http://localhost:*", "x", "http://localhost:99999999", no},
		{"http://localhost:*", "x", "http://localhost:1?", no},
		{"http://localhost:*", "x", "http://localhost:1#", no},
		{"", ":80", "http://:80", no},
		{"file://", "x", "file://", yes},
		{"file:///", "x", "file://", yes},
		{"file://", "x", "null", no},
		{"null", "x", "file://", no},
		{"*", "x", "https://any.example", yes},
		{"*", "x", "null", yes},
		{"*", "x", "what is this", yes},
		{"https://a.example https://b.example", "x", "https://b.example", yes},
		{"https://a.example", "app.example", "https://app.example", yes},
		{"https://*a*a*a*a*a*a", "x", "https://" + strings.Repeat("a", 10_000) + "b", no},
	}
	for _, tt := range tests {
		s := &Server{origins: originRules(strings.Fields(tt.origins))}
		if got := s.originAllowed(tt.origin, tt.host); got != tt.want {
			t.Errorf("with %q, called %q, a page of %q is allowed: %v", tt.origins, tt.host, tt.origin, got)
		}
	}
}

// An entry that no browser's page can match is said at the start.
func TestOriginThatMatchesNothingPanics(t *testing.T) {
	for _, entry := range []string{
		"", " ", "https://", "http:///", "://a.example", "1https://a.example", "ht tp://a.example",
		"https://a.example/app", "https://a.example//", "https://a.example?x=1", "https://a.example#top", "https://u:p@a.example",
		"wss://a.example", "ws://a.example", "WSS://a.example", "file:///x",
		"https://a.example:", "https://a.example:0", "https://a.example:65536", "https://a.example:https", "https://a.example:-1",
		"https://a..example", "https://.example", ".example", "https://a b.example", "https://a.example ", "https://bücher.example",
		"https://a%2eexample", "https://a,b", "https://a.example,https://b.example", "a.example/x", `https:\\a.example`,
		"::1", "https://::1:8080", "https://[::1", "https://[::1]8080", "https://[fe80::1%eth0]", "https://[1.2.3.4]", "https://[]",
		"127.1", "https://1.2.3.256", "https://0x7f.1", "https://1.0x", "https://a.example.0", "https://*.1.2.3.4:x",
	} {
		func() {
			defer func() {
				if said, _ := recover().(string); !strings.HasPrefix(said, "live: Options.Origins[1], ") {
					t.Errorf("of %q: %q", entry, said)
				}
			}()
			New(Options{Origins: []string{"https://a.example", entry}})
		}()
	}
}
