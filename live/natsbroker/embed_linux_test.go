package natsbroker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

func TestZeroOptionsOpenNoPort(t *testing.T) {
	if isChild(t) {
		e := startNode(t, Options{})
		nc := connectTo(t, e)
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("ready")
		awaitParent()
		return
	}
	c := startChild(t)
	if s := sockets(t, c.Process.Pid); len(s) > 0 {
		t.Errorf("the process has sockets: %v", s)
	}

	// The same method finds a port that is open.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if len(sockets(t, os.Getpid())) == 0 {
		t.Error("a listener of this test is not seen")
	}
}

// sockets returns the lines of /proc/net for the sockets of a process.
func sockets(t *testing.T, pid int) []string {
	dir := fmt.Sprintf("/proc/%d", pid)
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	if len(fds) == 0 {
		t.Fatal("the process has ended")
	}
	own := make(map[string]bool) // inodes
	for _, fd := range fds {
		if s, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil {
			if inode, ok := strings.CutPrefix(s, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	var found []string
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile(dir + "/net/" + table)
		if errors.Is(err, os.ErrNotExist) {
			continue // IPv6 is off
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			// The tenth column is the inode.
			if f := strings.Fields(line); len(f) > 9 && own[f[9]] {
				found = append(found, table+": "+strings.TrimSpace(line))
			}
		}
	}
	return found
}
