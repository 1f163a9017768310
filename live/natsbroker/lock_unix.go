//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package natsbroker

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// lockFile takes the lock that path stands for. It is the kernel's, so that it ends
// with the process however that ends; the file stays, since removing it would let two
// processes lock two files of that name.
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
