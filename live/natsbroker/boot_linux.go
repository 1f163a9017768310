package natsbroker

import (
	"os"
	"strings"
)

// bootID says which start of the machine this is; "": unknown.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
