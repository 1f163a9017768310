//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd || windows)

package natsbroker

import (
	"io"
	"os"
	"sync"
)

// locked holds the paths that this process has locked. It knows nothing of other processes: on
// this system the operator must see to it that a store has one process.
var locked sync.Map

type pathLock string

func (l pathLock) Close() error {
	locked.Delete(string(l))
	return nil
}

// lockFile locks a path within this process. The error is errLocked if the path is locked
// already.
func lockFile(path string) (unlock io.Closer, err error) {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	if _, taken := locked.LoadOrStore(path, true); taken {
		return nil, errLocked
	}
	return pathLock(path), nil
}
