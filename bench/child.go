package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/livetopic/livetopic/bench/server"
)

// serveCommand is the subcommand under which this program is a server process.
const serveCommand = "serve"

// answerTimeout is how long a server process may take to answer a command. After it the
// process is killed.
const answerTimeout = 60 * time.Second

// process is this program with a subcommand. It reads a line of JSON for each command, and
// writes one for each answer.
type process struct {
	what   string // for errors
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *tail
}

// startProcess starts a process. The function start has to call cmd.Start.
func startProcess(what string, start func(cmd *exec.Cmd) error, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{what: what, cmd: exec.Command(self, args...), stderr: &tail{}}
	p.cmd.Stderr = p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := start(p.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", what, err)
	}
	return p, nil
}

// child is one server in its own process.
type child struct {
	*process
	Address string
}

// startServer starts a server process.
func startServer(e env, kind server.Kind) (*child, error) {
	options, err := json.Marshal(e.Options)
	if err != nil {
		return nil, err
	}
	p, err := startProcess("server", func(cmd *exec.Cmd) error { return startOn(e.CPUs, cmd) },
		serveCommand, "-server", kind.Name, "-options", string(options), "-cpuprofile", e.Profile)
	if err != nil {
		return nil, err
	}
	c := &child{process: p}
	reply, err := c.answer(answerTimeout)
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("start server: %w", err)
	}
	c.Address = reply.Address
	return c, nil
}

// startOn starts cmd on the given CPUs. A process inherits them from the thread that starts
// it.
func startOn(cpus []int, cmd *exec.Cmd) error {
	if len(cpus) == 0 {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &before)
	if err := pin(cpus); err != nil {
		return err
	}
	return cmd.Start()
}

// pin moves the current thread.
func pin(cpus []int) error {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to CPUs %v: %w", cpus, err)
	}
	return nil
}

// tell sends a command that has no answer.
func (p *process) tell(command any) error {
	line, err := json.Marshal(command)
	if err != nil {
		return err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return p.explain(err)
	}
	return nil
}

// ask sends a command and returns its answer.
func (c *child) ask(command server.Command) (server.Reply, error) {
	if err := c.tell(command); err != nil {
		return server.Reply{}, err
	}
	return c.answer(answerTimeout)
}

func (c *child) answer(timeout time.Duration) (server.Reply, error) {
	var reply server.Reply
	if err := c.hear(&reply, timeout); err != nil {
		return reply, err
	}
	if reply.Error != "" {
		return reply, errors.New("publish: " + reply.Error)
	}
	return reply, nil
}

// hear reads an answer, and kills the process if that takes too long.
func (p *process) hear(answer any, timeout time.Duration) error {
	kill := time.AfterFunc(timeout, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, answer)
	}
	if err != nil {
		return p.explain(err)
	}
	return nil
}

func (p *process) explain(err error) error {
	return fmt.Errorf("%s process: %w %s", p.what, err, p.stderr)
}

// stop ends the process by the end of its stdin. A process that does not end then is killed.
func (p *process) stop() {
	p.in.Close()
	kill := time.AfterFunc(5*time.Second, func() { p.cmd.Process.Kill() })
	defer kill.Stop()
	io.Copy(io.Discard, p.out)
	p.cmd.Wait()
}

// tail keeps the end of what a process writes to stderr.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 2000

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if extra := len(t.b) - tailSize; extra > 0 {
		t.b = append(t.b[:0], t.b[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
