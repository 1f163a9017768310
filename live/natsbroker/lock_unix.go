//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package natsbroker

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lockFile locks the file at path. The error is errLocked if it is locked already. The kernel
// holds the lock, so the lock ends with the process in every case. The file is never removed:
// otherwise two processes could lock two files of the same name.
func lockFile(path string) (unlock io.Closer, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, &os.PathError{Op: "flock", Path: path, Err: err}
}
