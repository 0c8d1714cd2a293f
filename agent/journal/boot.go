package journal

import (
	"os"
	"strings"
)

// bootID names the boot of the machine (random(4)); "" when it can't be read.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// past tells that a run began before the machine was booted.
func (r record) past() bool {
	now := bootID()
	return r.Boot != "" && now != "" && r.Boot != now
}
