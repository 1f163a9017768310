package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livetopic/livetopic/live"
)

// restartAfter leaves time to see that pages notice the end of their program.
var restartAfter = 3 * time.Second

// program is an example that runs as a process of its own.
type program struct {
	Name, Title, Text string
	Look              string   // what to try, and to look for
	Args              []string // of the command line, beside -addr
	SignIn            string   // how to sign in: the terminal says it, and the page does not
	Port              int

	mu      sync.Mutex // guards process
	process *os.Process
}

// programs are the examples that the demo runs, in the order in which a visitor should look at them.
var programs = []*program{
	{Name: "chat", Title: "Chat", Text: "Rooms, who is here, who is typing, and what was said, on a disk.",
		Look: "Cut the line, write in another tab, and mend it.", Args: []string{"-store", "chat"}},
	{Name: "notifications", Title: "Notifications", Text: "Publish over HTTP, and follow a job's progress.",
		Look: "Start a job, load the page again, and open it in a second tab.", Args: []string{"-store", "notifications"}},
	{Name: "tasks", Title: "Tasks", Text: "A list in SQLite that every open page follows.",
		Look: "Add tasks in two tabs. Kill it meanwhile."},
	{Name: "stream", Title: "Stream", Text: "An answer that grows word by word.",
		Look: "Load the page again in the middle of a sentence."},
	{Name: "nethttp", Title: "Small chat", Text: "One room, in one file, with the standard library.",
		Look: "Kill it and write something. It waits, and is sent when the program is back."},
	{Name: "cursors", Title: "Cursors", Text: "Everybody's cursor on one page, sixty times a second.",
		Look: "Put two windows side by side."},
	{Name: "html", Title: "HTML", Text: "Notes that the server renders, and <live-topic> swaps in.",
		Look: "View the page's source: it has no script of its own."},
	{Name: "login", Title: "Sign-in with a cookie", Text: "Devices, flash messages, and sockets that end with the sign-out.",
		Look:   "Sign in with two browsers, and sign one out from the other. The terminal says the password.",
		SignIn: `sign in as ana or bo, with the password "correct horse".`},
	{Name: "token", Title: "Sign-in with a token", Text: "Tokens that expire, and a page that fetches a new one.",
		Look: "Wait for the countdown."},
}

// build builds the programs into a new folder.
func build(ctx context.Context) (string, error) {
	dir, err := os.MkdirTemp("", "livetopic-demo-")
	if err != nil {
		return "", err
	}
	args := []string{"build", "-o", dir + string(filepath.Separator)}
	for _, p := range programs {
		args = append(args, "github.com/livetopic/livetopic/examples/"+p.Name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("the examples do not build: %w", err)
	}
	return dir, nil
}

// nextPort returns the i-th port after the demo's. If that is taken, it returns any free port.
func nextPort(of net.Addr, i int) int {
	for _, port := range []int{of.(*net.TCPAddr).Port + i, 0} {
		if l, err := net.Listen("tcp", net.JoinHostPort("localhost", strconv.Itoa(port))); err == nil {
			l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	return 0
}

// URL is where the program's page is. Each has a host of its own, since browsers share the cookies of a
// host between its ports. Every name below localhost is this machine (RFC 6761, section 6.3).
func (p *program) URL() string {
	return fmt.Sprintf("http://%s.localhost:%d/", p.Name, p.Port)
}

// keepRunning runs the program until ctx ends. A program that ends is started again. changed is called
// when the program serves, and when it has ended.
func (p *program) keepRunning(ctx context.Context, binaries, dir string, changed func()) {
	for ctx.Err() == nil {
		if err := p.run(ctx, filepath.Join(binaries, p.Name), filepath.Join(dir, p.Name), changed); err != nil && ctx.Err() == nil {
			fmt.Printf("%s has ended (%v); it starts again in %v.\n", p.Title, err, restartAfter)
		}
		changed()
		select {
		case <-time.After(restartAfter):
		case <-ctx.Done():
		}
	}
}

// run runs the program once, and calls serves when it prints its address. Its log is a file in dir.
func (p *program) run(ctx context.Context, binary, dir string, serves func()) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, binary, append([]string{"-addr", fmt.Sprint("localhost:", p.Port)}, p.Args...)...)
	cmd.Dir, cmd.Stderr = dir, log
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // Ctrl-C has told it too
	cmd.WaitDelay = 15 * time.Second                                      // then it is killed
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "http://") { // its greeting
			p.set(cmd.Process)
			serves()
			break
		}
	}
	io.Copy(io.Discard, stdout)
	p.set(nil)
	return cmd.Wait()
}

func (p *program) set(process *os.Process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process = process
}

// kill ends the program as a crash does.
func (p *program) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != nil {
		p.process.Kill()
	}
}

// tell publishes the ID of the program's process. 0: the program does not run.
func (p *program) tell(server *live.Server) {
	p.mu.Lock()
	pid := 0
	if p.process != nil {
		pid = p.process.Pid
	}
	p.mu.Unlock()
	live.Publish(server, "programs", map[string]int{"pid": pid}, live.Key(p.Name))
}
