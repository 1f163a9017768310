package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOnlyHTTPIsListenedTo(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	p := start(t)
	port := 0
	if _, err := fmt.Sscanf(p.url, "http://localhost:%d", &port); err != nil {
		t.Fatal(err)
	}
	if got, want := listening(t, p.cmd.Process.Pid), []string{fmt.Sprintf("tcp 0100007F:%04X", port)}; !slices.Equal(got, want) {
		t.Errorf("it listens on %v, want %v", got, want)
	}
	if _, err := os.Stat(filepath.Join(cache, "livetopic-chat", "alone")); err != nil {
		t.Error(err)
	}
}

// listening returns the sockets of a process that take connections or datagrams, as
// /proc has them.
func listening(t *testing.T, pid int) (found []string) {
	t.Helper()
	const stateListen, stateUnconnected = "0A", "07"
	dir := fmt.Sprintf("/proc/%d", pid)
	own := make(map[string]bool) // inodes
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		link, _ := os.Readlink(dir + "/fd/" + fd.Name())
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	for _, kind := range []string{"tcp", "tcp6", "udp", "udp6"} {
		table, _ := os.ReadFile(dir + "/net/" + kind) // none if there is no IPv6
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			if len(f) > 9 && own[f[9]] && (f[3] == stateListen || f[3] == stateUnconnected) {
				found = append(found, kind+" "+f[1])
			}
		}
	}
	return found
}
