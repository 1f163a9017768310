package livetest

import (
	"bytes"
	"testing"
)

// A write to the log of a test that has ended would be a panic.
func TestLogOfAnEndedTestIsDropped(t *testing.T) {
	var b bytes.Buffer
	l := &testLog{to: &b}
	l.Write([]byte("before "))
	l.end()
	if n, err := l.Write([]byte("after")); n != 5 || err != nil || b.String() != "before " {
		t.Errorf("%d, %v: %q", n, err, b.String())
	}
}
