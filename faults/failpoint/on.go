//go:build privileged

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Variable arms failpoints in a process and in those that it starts: a list of
// NAME or NAME#N, where N counts the passages from 1, separated by commas.
const Variable = "FAULTLINE_FAILPOINTS"

// armed holds for each name how many passages are left.
var armed = arm(os.Getenv(Variable))

func arm(list string) map[Name]*atomic.Int64 {
	armed := map[Name]*atomic.Int64{}
	for entry := range strings.SplitSeq(list, ",") {
		name, times, _ := strings.Cut(entry, "#")
		left, err := strconv.ParseInt(times, 10, 64)
		if err != nil {
			left = 1
		}
		armed[Name(name)] = &atomic.Int64{}
		armed[Name(name)].Store(left)
	}
	return armed
}

// Hit kills this process, as kill -9 does, when the moment is armed.
func Hit(name Name) {
	left := armed[name]
	if left == nil || left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // not another instruction
}
