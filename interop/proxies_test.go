//go:build linux

package interop

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/livetopic/livetopic/internal/livetest"
	"github.com/livetopic/livetopic/live"
)

// These tests take the configurations from docs/proxies.md and run Debian's proxies with them:
// in the foreground, as a user without rights, on loopback ports. Only addresses and times are
// replaced. What a package's own configuration has around the page's is added.

const (
	cutAfter  = 2 * time.Second        // how long a connection may be idle; a minute by default
	pingEvery = 400 * time.Millisecond // 25 s by default
	idleTime  = cutAfter + time.Second
)

// proxyKind is one of the page's proxies.
type proxyKind struct {
	name      string // its heading
	language  string // of its blocks
	program   string
	secure    bool      // it ends TLS
	listen    [2]string // where it listens: on the page, and in the tests
	files     func(p *proxy, config string) map[string]string
	arguments []string
	reload    func(p *proxy) error
}

// In files and arguments, DIR and PORT stand for the proxy's.
var proxyKinds = []proxyKind{
	{
		name: "nginx", language: "nginx", program: "nginx",
		listen: [2]string{"listen 80;", "listen 127.0.0.1:PORT;"},
		files: func(p *proxy, config string) map[string]string {
			return map[string]string{"live.conf": config, "main.conf": fmt.Sprintf(`
				daemon off;
				pid nginx.pid;
				worker_processes 1;
				events {}
				http {
					access_log off;
					client_body_temp_path body;
					proxy_temp_path proxy;
					fastcgi_temp_path fastcgi;
					uwsgi_temp_path uwsgi;
					scgi_temp_path scgi;
					proxy_read_timeout %v;
					include live.conf;
				}`, cutAfter)}
		},
		arguments: []string{"-e", "stderr", "-p", "DIR", "-c", "main.conf"},
		reload:    func(p *proxy) error { return p.running.Process.Signal(syscall.SIGHUP) },
	},
	{
		name: "Apache", language: "apache", program: "apache2",
		listen: [2]string{"<VirtualHost *:80>", "<VirtualHost *:PORT>"},
		files: func(p *proxy, config string) map[string]string {
			main := fmt.Sprintf("ServerRoot DIR\nDefaultRuntimeDir DIR\nPidFile apache.pid\nErrorLog DIR/log\n"+
				"Listen 127.0.0.1:PORT\nStartServers 1\nTimeout %v\n", cutAfter.Seconds())
			for _, module := range []string{"mpm_event", "authz_core", "slotmem_shm", "proxy", "proxy_http", "proxy_balancer", "lbmethod_bybusyness"} {
				main += fmt.Sprintf("LoadModule %[1]s_module /usr/lib/apache2/modules/mod_%[1]s.so\n", module)
			}
			return map[string]string{"apache.conf": main + config}
		},
		arguments: []string{"-D", "FOREGROUND", "-f", "DIR/apache.conf"},
		reload:    func(p *proxy) error { return p.running.Process.Signal(syscall.SIGUSR1) },
	},
	{
		name: "HAProxy", language: "haproxy", program: "haproxy",
		listen: [2]string{"bind :80\n", "bind 127.0.0.1:PORT\n"},
		files: func(p *proxy, config string) map[string]string {
			times := regexp.MustCompile(`timeout (client|server) \w+`)
			config = times.ReplaceAllString(config, fmt.Sprintf("timeout $1 %v", cutAfter))
			return map[string]string{"haproxy.cfg": strings.Replace(config, "inter 2s", "inter 300ms", 1)}
		},
		arguments: []string{"-W", "-f", "DIR/haproxy.cfg"},
		reload:    func(p *proxy) error { return p.running.Process.Signal(syscall.SIGUSR2) },
	},
	{
		name: "Caddy", language: "caddy", program: "caddy", secure: true,
		listen: [2]string{"example.com {", "localhost:PORT {"}, // localhost has a certificate of Caddy's own
		files: func(p *proxy, config string) map[string]string {
			return map[string]string{"Caddyfile": fmt.Sprintf(`{
				admin localhost:%d
				storage file_system DIR/caddy
				skip_install_trust
				auto_https disable_redirects
				default_bind 127.0.0.1
				servers {
					protocols h1 h2
				}
			}
			`, p.adminPort) + config}
		},
		arguments: []string{"run", "--config", "DIR/Caddyfile"},
		reload:    func(p *proxy) error { return p.command("reload", "--config", "DIR/Caddyfile").Run() },
	},
}

// proxy is a proxy in a folder of its own.
type proxy struct {
	livetest.Endpoint
	t               testing.TB
	kind            proxyKind
	dir             string
	port, adminPort int
	running         *exec.Cmd     // nil: it does not
	ended           chan struct{} // closed when the process has ended
}

// newProxy returns a proxy that does not run yet, but has an address.
func newProxy(t testing.TB, kind proxyKind) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "livetopic-"+kind.language)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := &proxy{t: t, kind: kind, dir: dir, port: livetest.FreePort(t), adminPort: livetest.FreePort(t)}
	p.own(dir)
	p.URL = fmt.Sprintf("ws://127.0.0.1:%d", p.port)
	if kind.secure {
		p.URL = fmt.Sprintf("wss://localhost:%d", p.port)
	}
	return p
}

// nobody returns the user who runs the proxies if root runs the tests, else nil.
func nobody(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// own gives a file to the proxy's user.
func (p *proxy) own(name string) {
	p.t.Helper()
	if u := nobody(p.t); u != nil {
		if err := os.Chown(name, int(u.Uid), int(u.Gid)); err != nil {
			p.t.Fatal(err)
		}
	}
}

// at returns the endpoint with a path.
func (p *proxy) at(path string) livetest.Endpoint {
	return livetest.Endpoint{URL: p.URL + path, TLS: p.TLS}
}

// origin is where the pages are from that the proxy serves.
func (p *proxy) origin() string { return p.HTTP() }

// host is what a browser sends as Host.
func (p *proxy) host() string { return p.URL[strings.Index(p.URL, "//")+2:] }

// command returns a run of the proxy's program. It ends when the process of the tests does.
func (p *proxy) command(args ...string) *exec.Cmd {
	p.t.Helper()
	program, err := exec.LookPath(p.kind.program)
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/" + p.kind.program) // not in everybody's PATH
	}
	if err != nil {
		p.t.Fatalf("%s is not installed: `make deps` installs what the tests need (%v)", p.kind.program, err)
	}
	cmd := exec.Command(program, args...)
	for i := range cmd.Args {
		cmd.Args[i] = strings.ReplaceAll(cmd.Args[i], "DIR", p.dir)
	}
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + p.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM, Credential: nobody(p.t)}
	return cmd
}

// write writes the files of a configuration.
func (p *proxy) write(config string) {
	p.t.Helper()
	for name, text := range p.kind.files(p, config) {
		text = strings.NewReplacer("PORT", strconv.Itoa(p.port), "DIR", p.dir).Replace(text)
		name = filepath.Join(p.dir, name)
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			p.t.Fatal(err)
		}
		p.own(name)
	}
}

// start runs the proxy until the test ends, and waits until it passes on requests.
func (p *proxy) start(config string) {
	p.t.Helper()
	p.write(config)
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.own(log.Name())
	cmd := p.command(p.kind.arguments...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process
		cmd.Wait()
		close(ended)
	}()
	p.running, p.ended = cmd, ended
	p.t.Cleanup(p.stop)
	if p.kind.secure {
		p.trust()
	}
	p.await("a node's answer", func() bool { status, _ := p.get("/node"); return status == http.StatusOK })
}

// trust waits for the certificate that the proxy makes for its own.
func (p *proxy) trust() {
	p.t.Helper()
	roots := x509.NewCertPool()
	p.await("the certificate", func() bool {
		pem, err := os.ReadFile(filepath.Join(p.dir, "caddy/pki/authorities/local/root.crt"))
		return err == nil && roots.AppendCertsFromPEM(pem)
	})
	p.TLS = &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

// reload has the running proxy read another configuration, and waits for its effect.
func (p *proxy) reload(config string, effect func() bool) {
	p.t.Helper()
	p.write(config)
	var asked time.Time
	p.await("the effect of a reload", func() bool {
		if time.Since(asked) > time.Second { // again: HAProxy ignores the signal while it starts
			if err := p.kind.reload(p); err != nil {
				p.t.Fatalf("reloading: %v; %s wrote:\n%s", err, p.kind.name, p.log())
			}
			asked = time.Now()
		}
		return effect()
	})
}

// stop ends the proxy.
func (p *proxy) stop() {
	if p.running == nil {
		return
	}
	p.running.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(livetest.Patience):
		p.t.Errorf("%s does not end; it wrote:\n%s", p.kind.name, p.log())
		syscall.Kill(-p.running.Process.Pid, syscall.SIGKILL) // its process group
		<-p.ended
	}
	p.running = nil
}

// await waits until cond holds, and no longer when the proxy has ended.
func (p *proxy) await(what string, cond func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(livetest.Patience); !cond(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.ended:
			p.t.Fatalf("%s ended before %s; it wrote:\n%s", p.kind.name, what, p.log())
		default:
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("waited %v in vain for %s; %s wrote:\n%s", livetest.Patience, what, p.kind.name, p.log())
		}
	}
}

// log returns what the proxy wrote.
func (p *proxy) log() string {
	text, _ := os.ReadFile(filepath.Join(p.dir, "log"))
	return string(text)
}

// client returns an HTTP client of the proxy, with a connection for each request.
func (p *proxy) client(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: p.TLS, DisableKeepAlives: true}}
}

// get asks over a new connection. The status is 0 if there is no answer.
func (p *proxy) get(path string) (status int, body string) {
	resp, err := p.client(livetest.Patience).Get(p.HTTP() + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

// handshake connects as Firefox does. It returns the answer's status, and its body if the
// browser is refused.
func (p *proxy) handshake(path, host, origin string) (status int, body string) {
	p.t.Helper()
	conn := livetest.DialTransport(p.t, p.Endpoint)
	defer conn.Close()
	for _, line := range []string{
		"GET " + path + " HTTP/1.1", "Host: " + host, "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
		"Accept: */*", "Accept-Language: en-US,en;q=0.5", "Accept-Encoding: gzip, deflate, br, zstd", "Sec-WebSocket-Version: 13",
		"Origin: " + origin, "Sec-WebSocket-Protocol: " + livetest.Subprotocol, "Sec-WebSocket-Extensions: permessage-deflate",
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Connection: keep-alive, Upgrade", "Cookie: a=b", "Sec-Fetch-Dest: empty",
		"Sec-Fetch-Mode: websocket", "Sec-Fetch-Site: same-origin", "Pragma: no-cache", "Cache-Control: no-cache", "Upgrade: websocket", "",
	} {
		io.WriteString(conn, line+"\r\n")
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: http.MethodGet})
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, ""
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Error(err)
	}
	return resp.StatusCode, string(text)
}

// answers checks the answer to a browser, and parts of the body if it is refused.
func (p *proxy) answers(path, host, origin string, want int, parts ...string) {
	p.t.Helper()
	status, body := p.handshake(path, host, origin)
	if status != want {
		p.t.Errorf("a page of %s that calls %s%s is answered by %d, want %d: %s", origin, host, path, status, want, body)
	}
	for _, part := range parts {
		if !strings.Contains(body, part) {
			p.t.Errorf("the body of the %d has no %s: %s", status, part, body)
		}
	}
}

// dial connects as a page of the proxy does.
func (p *proxy) dial() *livetest.Client {
	p.t.Helper()
	c, err := p.tryDial()
	if err != nil {
		p.t.Fatalf("cannot connect through %s: %v", p.kind.name, err)
	}
	return c
}

// tryDial is dial for a client that may be refused.
func (p *proxy) tryDial() (*livetest.Client, error) {
	p.t.Helper()
	c, err := livetest.Try(p.t, p.at("/live"), livetest.Dialing{V1: true, Header: http.Header{"Origin": {p.origin()}}})
	if err != nil {
		return nil, err
	}
	return c.Attend().Greeted(), nil
}

// dialPlain connects as a page of the proxy does that knows nothing of live.v1.
func (p *proxy) dialPlain(path string) *livetest.Client {
	p.t.Helper()
	return livetest.Connect(p.t, p.at(path), livetest.Dialing{Header: http.Header{"Origin": {p.origin()}}}).Attend()
}

func proxyPage(t testing.TB) string {
	t.Helper()
	page, err := os.ReadFile("../docs/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// pageBlock returns the nth of the page's blocks of a language.
func pageBlock(t testing.TB, language string, n int) string {
	t.Helper()
	blocks := regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(proxyPage(t), -1)
	if len(blocks) <= n {
		t.Fatalf("docs/proxies.md has %d blocks of %s", len(blocks), language)
	}
	return blocks[n][1]
}

// pageRow returns the cells of a row below one of the page's headings, from the second on.
func pageRow(t testing.TB, heading, name string) []string {
	t.Helper()
	_, section, _ := strings.Cut(proxyPage(t), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.TrimSpace(cells[1]) == name {
			return cells[2:]
		}
	}
	t.Fatalf("docs/proxies.md has no row %s below %q", name, heading)
	return nil
}

// replaced returns a configuration in which old, which must be there once, is another text.
func replaced(t testing.TB, config, old, with string) string {
	t.Helper()
	if n := strings.Count(config, old); n != 1 {
		t.Fatalf("%q is there %d times, want once, in\n%s", old, n, config)
	}
	return strings.Replace(config, old, with, 1)
}

// pageNode is the page's address of the application.
const pageNode = "127.0.0.1:8080"

// config returns the page's configuration for a node.
func (p *proxy) config(node string) string {
	p.t.Helper()
	return replaced(p.t, p.several(), pageNode, node)
}

// several returns the page's configuration with these further nodes.
func (p *proxy) several(nodes ...string) string {
	p.t.Helper()
	config := replaced(p.t, pageBlock(p.t, p.kind.language, 0), p.kind.listen[0], p.kind.listen[1])
	if len(nodes) == 0 {
		return config
	}
	switch p.kind.name {
	case "Apache":
		members := pageBlock(p.t, "apache", 1)
		config = replaced(p.t, config, "\tProxyPass / http://"+pageNode+"/ upgrade=websocket\n", members)
		line := regexp.MustCompile(`(?m)^.*10\.0\.0\.2:8080.*\n`).FindString(config)
		config = replaced(p.t, config, line, repeated(line, "10.0.0.2:8080", nodes))
		return replaced(p.t, config, "10.0.0.1:8080", pageNode)
	case "Caddy":
		config = replaced(p.t, pageBlock(p.t, "caddy", 1), p.kind.listen[0], p.kind.listen[1])
		return replaced(p.t, config, "10.0.0.1:8080 10.0.0.2:8080", pageNode+" "+strings.Join(nodes, " "))
	default:
		line := regexp.MustCompile(`(?m)^.*` + pageNode + `.*one line for each node\n`).FindString(config)
		return replaced(p.t, config, line, line+repeated(line, pageNode, nodes))
	}
}

// repeated returns a line of a configuration for each node. The node has this address in the line.
func repeated(line, address string, nodes []string) string {
	var all strings.Builder
	for i, node := range nodes {
		all.WriteString(strings.NewReplacer(address, node, "node1", fmt.Sprint("node", i+2)).Replace(line))
	}
	return all.String()
}

// serveNode serves a node, and returns its address.
func serveNode(t testing.TB, name string, handlers map[string]http.Handler) string {
	mux := http.NewServeMux()
	mux.HandleFunc("/node", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) })
	mux.HandleFunc("/ready", func(http.ResponseWriter, *http.Request) {})
	for path, h := range handlers {
		mux.Handle(path, h)
	}
	_, address, _ := strings.Cut(livetest.Serve(t, mux).URL, "//")
	return address
}

func TestProxies(t *testing.T) {
	for _, kind := range proxyKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			var server *live.Server
			opts := livetest.Permissive()
			opts.OnMessage = livetest.Subscriber(&server).OnMessage
			opts.PingInterval = pingEvery
			server = livetest.NewServer(t, opts)
			opts.PingInterval = -1
			handlers := map[string]http.Handler{"/live": server.Handler(), "/silent": livetest.NewServer(t, opts).Handler()}
			one, other := serveNode(t, "one", handlers), serveNode(t, "other", handlers)

			p := newProxy(t, kind)
			p.start(p.config(one))
			testBrowser(p)
			testPublications(p, server)
			testIdle(p, server)
			testReload(p, server, other)
			testRestart(p, server, other)
			testShutdown(p, server)
		})
	}
}

func testBrowser(p *proxy) {
	p.answers("/live", p.host(), p.origin(), http.StatusSwitchingProtocols)
	p.answers("/live", p.host(), "https://elsewhere.example", http.StatusForbidden, `"https://elsewhere.example"`, `"`+p.host()+`"`)
	if !p.kind.secure { // as if a proxy before this one had ended TLS
		p.answers("/live", "example.com", "https://example.com", http.StatusSwitchingProtocols)
	}
}

func testPublications(p *proxy, server *live.Server) {
	c, publisher := p.dial(), p.dial()
	c.Must(livetest.SubscribeTo(1, "t"))
	livetest.PublishNumbers(p.t, server, "t", 1, 50)
	c.Hears("t", livetest.Numbers(1, 50)...)
	publisher.Must(`{"op":"publish","id":1,"topic":"t","data":51}`)
	c.Hears("t", "51")

	long := `"` + strings.Repeat("x", 1<<20) + `"`
	publisher.Must(`{"op":"publish","id":2,"topic":"t","data":` + long + `}`)
	c.Hears("t", long)
	if err := c.Ping("end to end"); err != nil {
		p.t.Error(err)
	}
	c.Drop()
	publisher.Drop()
}

// Pings keep an idle connection alive that is cut without them. Clients of live.v1 are pinged
// with messages, plain ones with control frames.
func testIdle(p *proxy, server *live.Server) {
	c, plain, silent := p.dial(), p.dialPlain("/live"), p.dialPlain("/silent")
	c.Must(livetest.SubscribeTo(1, "idle"))
	plain.Subscribe("idle")
	time.AfterFunc(idleTime, func() { server.Publish("idle", []byte("1")) })
	c.Hears("idle", "1")
	if got := plain.Read(); got != `{"topic":"idle","data":1}` {
		p.t.Errorf("the plain client got %s", got)
	}
	if strings.Contains(pageRow(p.t, "Timeouts", p.kind.name)[1], "never") {
		if err := silent.Ping("still there"); err != nil {
			p.t.Error(err)
		}
	} else if _, code := silent.Rest(); code != 0 {
		p.t.Errorf("without pings a connection ended with code %d (%v), want a cut", code, silent.Err())
	}
	for _, c := range []*livetest.Client{c, plain, silent} { // an old process of Apache's would wait for them
		c.Drop()
	}
}

// testReload has the proxy send new clients to the other node.
func testReload(p *proxy, server *live.Server, other string) {
	end := pageRow(p.t, "When the proxy reloads or restarts", p.kind.name)[0]
	c := p.dial()
	c.Must(livetest.SubscribeTo(1, "chat"))
	livetest.PublishNumbers(p.t, server, "chat", 1, 1)
	at := c.Hears("chat", "1")[0].At
	p.reload(p.config(other), func() bool { _, body := p.get("/node"); return body == "other" })
	livetest.PublishNumbers(p.t, server, "chat", 2, 2)
	if strings.Contains(end, "nothing") {
		c.Hears("chat", "2")
		c.Drop()
	} else {
		p.endsAs(c, end)
	}
	resumes(p.t, p.dial(), at, "2")
}

func testRestart(p *proxy, server *live.Server, node string) {
	c := p.dial()
	c.Must(livetest.SubscribeTo(1, "chat"))
	livetest.PublishNumbers(p.t, server, "chat", 3, 3)
	at := c.Hears("chat", "3")[0].At
	p.stop()
	p.endsAs(c, pageRow(p.t, "When the proxy reloads or restarts", p.kind.name)[1])
	livetest.PublishNumbers(p.t, server, "chat", 4, 4)
	p.start(p.config(node))
	resumes(p.t, p.dial(), at, "4")
}

// testShutdown has the server leave: clients hear of it, and later ones are told by the proxy.
func testShutdown(p *proxy, server *live.Server) {
	c := p.dial()
	if err := server.Shutdown(context.Background()); err != nil {
		p.t.Error(err)
	}
	if _, code := c.Rest(); code != live.CloseRestart {
		p.t.Errorf("Shutdown ends with code %d (%v), want 1012", code, c.Err())
	}
	away := pageRow(p.t, "When a handshake fails", "502, 503")[0]
	var status int
	p.reload(p.config(livetest.FreeAddress(p.t)), func() bool {
		status, _ = p.get("/node")
		return status != http.StatusOK && status != 0 // HAProxy cuts what waits for a node when it marks the node as down
	})
	if (status != 502 && status != 503) || !strings.Contains(away, "not there") {
		p.t.Errorf("without the application the proxy says %d, the page %s", status, away)
	}
}

// endsAs checks that the proxy ends a connection with a code that the page says. A browser reports
// the code of the first close frame. Caddy closes both of its connections at once, and may then
// still pass on the server's answer to its close frame.
func (p *proxy) endsAs(c *livetest.Client, page string) {
	p.t.Helper()
	_, code := c.Rest()
	var more *livetest.TrailingError
	if errors.As(c.Err(), &more) {
		code = more.Close.Code
	}
	if code == 0 {
		code = 1006
	}
	if !strings.Contains(page, strconv.Itoa(code)) {
		p.t.Errorf("the connection ends with code %d (%v), the page says %s", code, c.Err(), page)
	}
}

// resumes subscribes from a position, and checks what was missed.
func resumes(t testing.TB, c *livetest.Client, at string, want ...string) {
	t.Helper()
	f := c.Must(livetest.ResumeFrom(1, "chat", at))
	if got := livetest.DataOf(f.Messages); !f.WasRecovered() || !slices.Equal(got, want) {
		t.Errorf("resuming is answered by %s, want %v", f.Raw, want)
	}
}

// proxyWithout starts a proxy with the page's configuration but for a line.
func proxyWithout(t testing.TB, kind proxyKind, line string, handlers func(p *proxy) map[string]http.Handler) (p *proxy, node string) {
	t.Helper()
	p = newProxy(t, kind)
	node = serveNode(t, "one", handlers(p))
	p.start(replaced(t, p.config(node), line, ""))
	return p, node
}

// The lines that pass on Host.
const (
	nginxHost  = "\t\tproxy_set_header Host $http_host;\n"
	apacheHost = "\tProxyPreserveHost On\n"
)

func TestProxyThatDoesNotPassOnHost(t *testing.T) {
	for i, line := range []string{nginxHost, apacheHost} {
		kind := proxyKinds[i]
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			var log livetest.LockedBuffer
			opts := livetest.Permissive()
			opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
			p, called := proxyWithout(t, kind, line, func(p *proxy) map[string]http.Handler {
				refusing := livetest.NewServer(t, opts)
				opts.Origins = []string{p.origin()}
				return map[string]http.Handler{"/live": refusing.Handler(), "/mended": livetest.NewServer(t, opts).Handler()}
			})
			if kind.name == "nginx" {
				called = "app"
			}
			p.answers("/live", p.host(), p.origin(), http.StatusForbidden,
				`"`+p.origin()+`"`, `called "`+called+`"`, "Options.Origins", "proxy_set_header Host")
			for _, part := range []string{"level=INFO", "origin=" + p.origin(), "host=" + called, "Options.Origins"} {
				if !strings.Contains(log.String(), part) {
					t.Errorf("the log has no %s: %s", part, log.String())
				}
			}
			p.answers("/mended", p.host(), p.origin(), http.StatusSwitchingProtocols)
			p.answers("/mended", p.host(), "https://elsewhere.example", http.StatusForbidden)
		})
	}
}

// The refusal that the page shows is what is sent and logged, and what the page advises helps.
func TestRefusalOnTheProxyPage(t *testing.T) {
	var log livetest.LockedBuffer
	opts := livetest.Permissive()
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	server := live.New(live.Options{
		Origins: []string{"https://example.com"},
	})
	t.Cleanup(func() { server.Shutdown(context.Background()) })
	source, err := os.ReadFile("proxies_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if snippet := pageBlock(t, "go", 0); !strings.Contains(strings.ReplaceAll(string(source), "\n\t", "\n"), snippet) {
		t.Errorf("this file does not compile the page's\n%s", snippet)
	}
	p, _ := proxyWithout(t, proxyKinds[0], nginxHost, func(*proxy) map[string]http.Handler {
		return map[string]http.Handler{"/live": livetest.NewServer(t, opts).Handler(), "/mended": server.Handler()}
	})
	_, body := p.handshake("/live", "example.com", "https://example.com")
	livetest.Check(t, "the body", body, pageBlock(t, "text", 0))
	_, logged, _ := strings.Cut(log.String(), " ") // after the time
	livetest.Check(t, "the log", logged, pageBlock(t, "text", 1))
	p.answers("/mended", "example.com", "https://example.com", http.StatusSwitchingProtocols)
}

// A status of the page's table comes from the missing line that the table blames.
func TestStatusOnTheProxyPage(t *testing.T) {
	for _, test := range []struct {
		line, blamed string
		status       int
	}{
		{"\t\tproxy_set_header Upgrade $http_upgrade;\n", "`Upgrade`", http.StatusBadRequest},
		{"\t\tproxy_set_header Connection $connection_upgrade;\n", "`Connection`", http.StatusBadRequest},
		{nginxHost, "`Host`", http.StatusForbidden},
		{"\t\tproxy_http_version 1.1;\n", "`proxy_http_version 1.1`", http.StatusUpgradeRequired},
	} {
		t.Run(test.blamed, func(t *testing.T) {
			t.Parallel()
			p, _ := proxyWithout(t, proxyKinds[0], test.line, func(*proxy) map[string]http.Handler {
				return map[string]http.Handler{"/live": livetest.NewServer(t, livetest.Permissive()).Handler()}
			})
			p.answers("/live", p.host(), p.origin(), test.status)
			if why := pageRow(t, "When a handshake fails", strconv.Itoa(test.status))[0]; !strings.Contains(why, test.blamed) {
				t.Errorf("the page does not blame %s for %d: %s", test.blamed, test.status, why)
			}
		})
	}
}
