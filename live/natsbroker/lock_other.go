//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package natsbroker

import (
	"io"
	"os"
	"sync"
)

// locked are the paths that this process has locked. Of other processes it knows
// nothing: here it is up to the operator that a store has one process.
var locked sync.Map

type pathLock string

func (l pathLock) Close() error {
	locked.Delete(string(l))
	return nil
}

// lockFile takes the lock that path stands for, within this process.
func lockFile(path string) (unlock io.Closer, err error) {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	if _, taken := locked.LoadOrStore(path, true); taken {
		return nil, errLocked
	}
	return pathLock(path), nil
}
