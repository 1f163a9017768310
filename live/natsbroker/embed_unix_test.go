//go:build unix

package natsbroker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
)

func TestSignalsReachTheApplication(t *testing.T) {
	const code = 7
	if isChild(t) {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		e := startNode(t, Options{Cluster: &Cluster{Listen: "127.0.0.1:0", NoStore: true}})
		fmt.Println("ready")
		<-c
		// A signal handler of the server would have time to end the process in its own way.
		stopNode(t, e)
		os.Exit(code)
	}
	c := startChild(t)
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("%v, want the application's exit code, %d\n%s", err, code, c.err.String())
	}
}
