package natsbroker

import (
	"os"
	"strings"
)

// bootID returns the ID of the present start of the machine; "": unknown.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
