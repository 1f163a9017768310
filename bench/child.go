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

// answerTimeout is how long a server process may take to answer a command; it is
// killed then. Only a paced load takes long, and it says for how long.
const answerTimeout = 60 * time.Second

// child is one server in its own process.
type child struct {
	Address string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	stderr  *tail
}

// startServer starts a server process.
func startServer(e env, kind server.Kind) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	options, err := json.Marshal(e.Options)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, serveCommand, "-server", kind.Name, "-options", string(options), "-cpuprofile", e.Profile)
	c := &child{cmd: cmd, stderr: &tail{}}
	cmd.Stderr = c.stderr
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := startOn(e.CPUs, cmd); err != nil {
		return nil, fmt.Errorf("start server: %w", err)
	}
	reply, err := c.answer(answerTimeout)
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("start server: %w", err)
	}
	c.Address = reply.Address
	return c, nil
}

// startOn starts cmd on the given CPUs, which a process inherits from the thread
// that starts it.
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
func (c *child) tell(command server.Command) error {
	line, err := json.Marshal(command)
	if err != nil {
		return err
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return c.explain(err)
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
	kill := time.AfterFunc(timeout, func() { c.cmd.Process.Kill() })
	defer kill.Stop()
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return server.Reply{}, c.explain(err)
	}
	var reply server.Reply
	if err := json.Unmarshal(line, &reply); err != nil {
		return reply, c.explain(err)
	}
	if reply.Error != "" {
		return reply, errors.New("publish: " + reply.Error)
	}
	return reply, nil
}

func (c *child) explain(err error) error {
	return fmt.Errorf("server process: %w %s", err, c.stderr)
}

// stop ends the process: its stdin ends, and if it does not follow, it is killed.
func (c *child) stop() {
	c.in.Close()
	kill := time.AfterFunc(5*time.Second, func() { c.cmd.Process.Kill() })
	defer kill.Stop()
	io.Copy(io.Discard, c.out)
	c.cmd.Wait()
}

// tail keeps the end of what a server process writes to stderr.
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
