package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/livetopic/livetopic/internal/livetest"
)

// patience is for a machine that is busy with other tests.
const patience = 20 * time.Second

// start builds a program whose address is replaced by a free one, and runs it.
func start(t *testing.T, folder string) (address string, program *exec.Cmd) {
	t.Helper()
	address = livetest.FreeAddress(t)
	file, err := filepath.Abs(filepath.Join("..", folder, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed, overlay, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay"), filepath.Join(dir, "program")
	replace, _ := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	for path, data := range map[string][]byte{
		changed: bytes.ReplaceAll(source, []byte("localhost:8080"), []byte(address)),
		overlay: replace,
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("go", "build", "-overlay", overlay, "-o", binary, "../"+folder).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program = exec.Command(binary)
	program.Stderr = os.Stderr
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		program.Process.Kill()
		program.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return address, program
		}
		if time.Now().After(deadline) {
			t.Fatal("the program does not listen")
		}
	}
}

// Both programs show what is posted, and end on SIGTERM so that their clients come back.
func TestProgramsOfTheReadme(t *testing.T) {
	for _, folder := range []string{"news", "newsmizu"} {
		t.Run(folder, func(t *testing.T) {
			address, program := start(t, folder)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			ws, _, err := websocket.Dial(ctx, "ws://"+address+"/live", &websocket.DialOptions{Subprotocols: []string{"live.v1"}})
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			post := func(text string) {
				t.Helper()
				answer, err := http.PostForm("http://"+address+"/news", url.Values{"text": {text}})
				if err != nil || answer.StatusCode >= 300 {
					t.Fatal(answer, err)
				}
				answer.Body.Close()
			}
			post("before")
			if err := ws.Write(ctx, websocket.MessageText, []byte(`{"op":"subscribe","id":1,"topic":"news","last":20}`)); err != nil {
				t.Fatal(err)
			}
			awaitText := func(want string) {
				t.Helper()
				for {
					_, frame, err := ws.Read(ctx)
					if err != nil {
						t.Fatalf("waiting for %q: %v", want, err)
					}
					if strings.Contains(string(frame), want) {
						return
					}
				}
			}
			awaitText(`{"text":"before"}`)
			post("after")
			awaitText(`{"text":"after"}`)

			if err := program.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, _, err = ws.Read(ctx)
			}
			var within int
			if websocket.CloseStatus(err) != 1012 {
				t.Errorf("it ended with %v", err)
			} else if _, err := fmt.Sscanf(closeReason(err), "restart; return within %d ms", &within); err != nil {
				t.Errorf("the close frame says %q", closeReason(err))
			}
			if err := program.Wait(); err != nil {
				t.Errorf("the program ended with %v", err)
			}
		})
	}
}

func closeReason(err error) string {
	var ended websocket.CloseError
	if errors.As(err, &ended) {
		return ended.Reason
	}
	return ""
}

// The page of the first program loads its client from it.
func TestPageOfTheReadme(t *testing.T) {
	address, _ := start(t, "news")
	for path, part := range map[string]string{"/": `connect("/live")`, "/live.js": "connect"} {
		answer, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if !strings.Contains(string(body), part) {
			t.Errorf("%s does not have %q", path, part)
		}
	}
}
