package pin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// HeldPrograms lists the BPF programs that processes have open
// (proc_pid_fdinfo(5)). One that ends meanwhile has none.
func HeldPrograms() (map[ebpf.ProgramID]bool, error) {
	fds, err := filepath.Glob("/proc/[0-9]*/fd")
	if err != nil {
		return nil, err
	}
	held := map[ebpf.ProgramID]bool{}
	for _, dir := range fds {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the owners of programs: %w", err)
		}
		for _, entry := range entries {
			target, err := os.Readlink(filepath.Join(dir, entry.Name()))
			if err != nil || target != "anon_inode:bpf-prog" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir+"info", entry.Name()))
			if err != nil {
				continue
			}
			if id, ok := programID(string(text)); ok {
				held[id] = true
			}
		}
	}
	return held, nil
}

func programID(fdinfo string) (ebpf.ProgramID, bool) {
	for line := range strings.Lines(fdinfo) {
		if value, found := strings.CutPrefix(line, "prog_id:"); found {
			id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
			return ebpf.ProgramID(id), err == nil
		}
	}
	return 0, false
}
