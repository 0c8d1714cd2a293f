//go:build linux && privileged

package file_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/file"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	env.Main(m, map[string]env.Workload{"files": files})
}

// injected is what nothing that is done here ends with by itself (errno 118).
const injected = unix.ENOTNAM

// files does what it is told with files, and prints the errno. Descriptors have
// numbers of the caller's choice.
func files(in io.Reader, out *json.Encoder, args []string) error {
	if len(args) > 0 {
		// A root, and a mount namespace where the caller has made one.
		if err := unix.Chroot(args[0]); err != nil {
			return err
		}
		if err := os.Chdir("/"); err != nil {
			return err
		}
	}
	open := map[string]int{}
	return env.Serve(in, out, func(words []string) (any, error) {
		var errno unix.Errno
		if err := operate(open, words); err != nil && !errors.As(err, &errno) {
			return nil, fmt.Errorf("%s: %w", words, err)
		}
		return int(errno), nil
	})
}

func operate(open map[string]int, words []string) error {
	arg := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	fd := open[arg(1)]
	buffer := make([]byte, 8)
	switch words[0] {
	case "open", "create", "append", "empty":
		flags := map[string]int{
			"open": unix.O_RDONLY, "create": unix.O_RDWR | unix.O_CREAT, "append": unix.O_RDWR | unix.O_APPEND, "empty": unix.O_RDWR | unix.O_TRUNC,
		}[words[0]]
		fd, err := unix.Open(arg(2), flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			open[arg(1)] = fd
		}
		return err
	case "close":
		delete(open, arg(1))
		return unix.Close(fd)
	case "read":
		_, err := unix.Pread(fd, buffer, 0)
		return err
	case "write":
		_, err := unix.Write(fd, buffer)
		return err
	case "fsync":
		return unix.Fsync(number(open, arg(1)))
	case "fdatasync":
		return unix.Fdatasync(number(open, arg(1)))
	case "mmap":
		memory, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
		if err == nil {
			err = unix.Munmap(memory)
		}
		return err
	case "stat":
		return unix.Stat(arg(1), &unix.Stat_t{})
	case "fstat":
		return unix.Fstat(fd, &unix.Stat_t{})
	case "unlink":
		return unix.Unlink(arg(1))
	case "rmdir":
		return unix.Rmdir(arg(1))
	case "rename":
		return unix.Rename(arg(1), arg(2))
	case "mkdir":
		return unix.Mkdir(arg(1), 0o755)
	case "truncate":
		return unix.Truncate(arg(1), 1)
	case "ftruncate":
		return unix.Ftruncate(fd, 1)
	case "link":
		return unix.Link(arg(1), arg(2))
	case "symlink":
		return unix.Symlink(arg(1), arg(2))
	case "chmod":
		return unix.Chmod(arg(1), 0o600)
	case "ioctl":
		_, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	case "lock":
		return unix.Flock(fd, unix.LOCK_SH)
	case "statfs":
		return unix.Statfs(arg(1), &unix.Statfs_t{})
	case "chdir":
		return unix.Chdir(arg(1))
	}
	return fmt.Errorf("unknown operation %q", words[0])
}

// number is that of an open file, or one that no file has.
func number(open map[string]int, name string) int {
	if fd, found := open[name]; found {
		return fd
	}
	return -1
}

// user is a process that uses files.
type user struct {
	t       testing.TB
	process *env.Process
}

func newUser(t testing.TB, cgroup fault.Cgroup, args ...string) user {
	t.Helper()
	p := env.Start(t, cgroup, nil, "files", args...)
	var ready string
	p.Read(&ready)
	return user{t, p}
}

// do returns the errno of an operation.
func (u user) do(words ...string) unix.Errno {
	u.t.Helper()
	u.tell(words...)
	return u.answer()
}

// tell begins an operation.
func (u user) tell(words ...string) {
	u.t.Helper()
	u.process.Tell(strings.Join(words, " "))
}

// answer waits for the end of it.
func (u user) answer() (errno unix.Errno) {
	u.t.Helper()
	u.process.Read(&errno)
	return errno
}

// must does something that has to go well.
func (u user) must(words ...string) {
	u.t.Helper()
	if errno := u.do(words...); errno != 0 {
		u.t.Fatalf("%s: %v", words, errno)
	}
}

// expect compares the errno of an operation.
func (u user) expect(want unix.Errno, words ...string) {
	u.t.Helper()
	if errno := u.do(words...); errno != want {
		u.t.Errorf("%s: errno %d (%v), want %d", words, errno, errno, want)
	}
}

func (u user) PID() string { return strconv.Itoa(u.process.PID()) }

// fails is a fault in which operations fail with the injected errno.
func fails(mechanism, path string, operations ...v1.FileOperation) *v1.Fault {
	return &v1.Fault{
		Mechanism: mechanism,
		Fault:     &v1.Fault_FileError{FileError: &v1.FileError{Path: path, Operations: operations, Errno: "ENOTNAM"}},
	}
}

// eachMechanism runs a test with every mechanism of the kernel but that of FSYNC alone
// (TestSyncFails).
func eachMechanism(t *testing.T, test func(t *testing.T, mechanism string)) {
	t.Helper()
	kind := file.Error()
	kind.Mechanisms = slices.DeleteFunc(kind.Mechanisms, func(m fault.Mechanism) bool { return m.Name == "fmod_ret" })
	env.EachMechanism(t, kind, test)
}

func inject(t *testing.T, spec *v1.Fault, targets ...fault.Cgroup) *env.Injected {
	t.Helper()
	return env.Inject(t, file.Error(), spec, nil, targets...)
}

func expectCounters(t *testing.T, i *env.Injected, matched, hit uint64) {
	t.Helper()
	want := fault.Counters{Matched: matched, Injected: hit}
	if c := i.Count(); c != want {
		t.Errorf("counters %+v, want %+v", c, want)
	}
}

// newDir is a directory for files, on a file system of its own.
func newDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	mountTmpfs(t, dir)
	return dir
}

func mountTmpfs(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("faultline-test", dir, "tmpfs", 0, "size=256m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// put makes a file, and the directories that lead there.
func put(t *testing.T, path string) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, make([]byte, 4096), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}
