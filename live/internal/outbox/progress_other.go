//go:build !linux || 386

package outbox

import "syscall"

func acknowledged(syscall.RawConn) (n, window uint64, ok bool) { return 0, 0, false }

func hasLeft(syscall.RawConn) bool { return false }

func inFlight(syscall.RawConn) bool { return false }

func unacknowledged(syscall.RawConn) int { return 0 }

func limitUnsent(syscall.RawConn) {}
