//go:build linux && privileged

package disk_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"google.golang.org/protobuf/proto"

	"faultline.dev/faultline/faults/disk"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

func TestMain(m *testing.M) { env.Main(m, map[string]env.Workload{"disk": useDisk}) }

const (
	block        = 4096
	blockSectors = block / 512
	// big is what the test of large requests reads at once.
	big = 64 * block
	// unread is the folder beside the file that "look" looks for names in.
	unread = "unread"
)

// useDisk does to a file what it is told, past the page cache but for "dirty", for a
// number of blocks from the first one given, and answers with the results by errno.
func useDisk(in io.Reader, out *json.Encoder, args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDWR|unix.O_CREAT|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	// What is read past the cache goes to memory that begins at a page.
	buffer, err := unix.Mmap(-1, 0, big, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return env.Serve(in, out, func(words []string) (any, error) {
		results := map[int]int{}
		first, err := strconv.Atoi(words[1])
		if err != nil {
			return nil, err
		}
		number, err := strconv.Atoi(words[2])
		for i := first; err == nil && i < first+number; i++ {
			var failed error
			switch words[0] {
			case "read":
				_, failed = unix.Pread(fd, buffer[:block], int64(i)*block)
			case "read-big":
				_, failed = unix.Pread(fd, buffer, int64(i)*block)
			case "write":
				_, failed = unix.Pwrite(fd, buffer[:block], int64(i)*block)
			case "look":
				_, failed = os.Lstat(filepath.Join(filepath.Dir(args[0]), unread, fmt.Sprint("nothing", i)))
				if errors.Is(failed, os.ErrNotExist) {
					failed = nil
				}
			case "sync":
				failed = unix.Fsync(fd)
			case "dirty":
				failed = os.WriteFile(args[0]+".dirty", buffer[:block], 0o600)
			}
			var errno unix.Errno
			if failed != nil && !errors.As(failed, &errno) {
				return nil, failed
			}
			results[int(errno)]++
		}
		return results, err
	})
}

// user is a process that uses a disk.
type user struct {
	t       testing.TB
	process *env.Process
}

func newUser(t testing.TB, cgroup fault.Cgroup, path string) user {
	t.Helper()
	p := env.Start(t, cgroup, nil, "disk", path)
	var ready string
	p.Read(&ready)
	return user{t, p}
}

// expect does something with blocks and compares how often which errno came.
func (u user) expect(want map[int]int, operation string, first, number int) {
	u.t.Helper()
	u.process.Tell(fmt.Sprintf("%s %d %d", operation, first, number))
	var got map[int]int
	u.process.Read(&got)
	if !maps.Equal(got, want) {
		u.t.Errorf("%s of %d blocks from %d: results by errno %v, want %v", operation, number, first, got, want)
	}
}

func needDisk(t *testing.T) {
	t.Helper()
	if answer := env.Prober(t).Probe(t.Context(), kernel.ShouldFailBio); !answer.OK() {
		kernels.Missing(t, string(kernel.ShouldFailBio), errors.New(answer.Reason))
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// newDisk makes a block device of 64 MiB.
func newDisk(t testing.TB) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 64<<20); err != nil {
		t.Fatal(err)
	}
	device := run(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { run(t, "losetup", "--detach", device) })
	return device
}

func failing(at *v1.DiskError) *v1.Fault {
	return &v1.Fault{Fault: &v1.Fault_DiskError{DiskError: at}}
}

func inject(t *testing.T, spec *v1.Fault, targets ...fault.Cgroup) *env.Injected {
	t.Helper()
	return env.Inject(t, disk.Error(), spec, nil, targets...)
}

func expectCounters(t *testing.T, i *env.Injected, matched, hit uint64) {
	t.Helper()
	if c, want := i.Count(), (fault.Counters{Matched: matched, Injected: hit}); c != want {
		t.Errorf("counters %+v, want %+v", c, want)
	}
}

const eio = int(unix.EIO)

// targets are two cgroups with what it takes to know whose I/O is.
func targets(t *testing.T) (target, neighbour fault.Cgroup) {
	t.Helper()
	parent := env.Controlled(t, kernel.IOController, kernel.MemoryController)
	return env.Child(t, parent, "target"), env.Child(t, parent, "neighbour")
}

func TestReadsOfSectorsFail(t *testing.T) {
	needDisk(t)
	device := newDisk(t)
	target, neighbour := targets(t)
	mine, other := newUser(t, target, device), newUser(t, neighbour, device)
	i := inject(t, failing(&v1.DiskError{
		Operations: []v1.DiskError_Operation{v1.DiskError_READ},
		Device:     device,
		Sectors:    []*v1.SectorRange{{First: 10 * blockSectors, Last: 20*blockSectors - 1}, {First: 31 * blockSectors, Last: 31 * blockSectors}},
	}), target)
	if len(i.Plan.Warnings) != 0 {
		t.Errorf("warnings %q", i.Plan.Warnings)
	}
	mine.expect(map[int]int{0: 39, eio: 11}, "read", 0, 50)
	mine.expect(map[int]int{0: 50}, "write", 0, 50)
	other.expect(map[int]int{0: 50}, "read", 0, 50)
	expectCounters(t, i, 11, 11)
	event := i.Events()[0]
	if event.GetWhat() != "READ at sector 80" || event.GetErrno() != "EIO" || event.GetBytes() != block || event.GetPid() == 0 || event.GetCgroupId() != target.ID {
		t.Errorf("event %v", event)
	}
	i.End()
	mine.expect(map[int]int{0: 50}, "read", 0, 50)
}

func TestEveryThirdWriteFails(t *testing.T) {
	needDisk(t)
	device := newDisk(t)
	target, neighbour := targets(t)
	mine, other := newUser(t, target, device), newUser(t, neighbour, device)
	spec := failing(&v1.DiskError{Operations: []v1.DiskError_Operation{v1.DiskError_WRITE}, Device: device})
	spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
	i := inject(t, spec, target)
	mine.expect(map[int]int{0: 200, eio: 100}, "write", 0, 300)
	mine.expect(map[int]int{0: 10}, "read", 0, 10)
	other.expect(map[int]int{0: 100}, "write", 0, 100)
	expectCounters(t, i, 300, 100)
	// A flush is one of the device's cache, and no write.
	mine.expect(map[int]int{0: 3}, "sync", 0, 3)
	expectCounters(t, i, 300, 100)
	i.End()

	i = inject(t, failing(&v1.DiskError{Operations: []v1.DiskError_Operation{v1.DiskError_FLUSH}, Device: device}), target)
	mine.expect(map[int]int{0: 10}, "write", 0, 10)
	mine.expect(map[int]int{eio: 3}, "sync", 0, 3)
	other.expect(map[int]int{0: 3}, "sync", 0, 3)
	expectCounters(t, i, 3, 3)
}

// What the kernel takes apart for the disk comes by in parts, and counts once.
func TestLargeReadIsOne(t *testing.T) {
	needDisk(t)
	device := newDisk(t)
	limit := filepath.Join("/sys/block", filepath.Base(device), "queue/max_sectors_kb")
	if err := os.WriteFile(limit, []byte("64"), 0); err != nil {
		t.Fatal(err)
	}
	target, _ := targets(t)
	mine := newUser(t, target, device)
	spec := failing(&v1.DiskError{Operations: []v1.DiskError_Operation{v1.DiskError_READ}, Device: device})
	spec.Observe = true
	i := inject(t, spec, target)
	mine.expect(map[int]int{0: 10}, "read-big", 0, 10)
	expectCounters(t, i, 10, 10)
}

// A partition has sectors of its own, which are others of its disk.
func TestSectorsOfAPartition(t *testing.T) {
	needDisk(t)
	device := newDisk(t)
	const start = 256 * blockSectors
	run(t, "addpart", device, "1", strconv.Itoa(start), "8192")
	t.Cleanup(func() { run(t, "delpart", device, "1") })
	part := device + "p1"
	target, _ := targets(t)
	mine := newUser(t, target, part)
	for _, tt := range []struct {
		of    string
		first uint64
	}{{part, 0}, {device, start}} {
		i := inject(t, failing(&v1.DiskError{
			Operations: []v1.DiskError_Operation{v1.DiskError_READ}, Device: tt.of,
			Sectors: []*v1.SectorRange{{First: tt.first + 2*blockSectors, Last: tt.first + 5*blockSectors - 1}},
		}), target)
		mine.expect(map[int]int{0: 7, eio: 3}, "read", 0, 10)
		expectCounters(t, i, 3, 3)
		i.End()
	}
}

// What a process has written into the cache is written out by a worker of the kernel.
func TestWhatIsWrittenLaterFails(t *testing.T) {
	needDisk(t)
	device := newDisk(t)
	run(t, "mkfs.ext4", "-q", "-O", "^has_journal", device)
	mount := t.TempDir()
	run(t, "mount", device, mount)
	t.Cleanup(func() { run(t, "umount", mount) })
	target, neighbour := targets(t)
	mine, other := newUser(t, target, filepath.Join(mount, "mine")), newUser(t, neighbour, filepath.Join(mount, "other"))
	i := inject(t, failing(&v1.DiskError{Operations: []v1.DiskError_Operation{v1.DiskError_WRITE}, MountPoint: mount}), target)
	other.expect(map[int]int{0: 1}, "dirty", 0, 1)
	run(t, "sync", "--file-system", filepath.Join(mount, "other.dirty"))
	expectCounters(t, i, 0, 0)
	mine.expect(map[int]int{0: 1}, "dirty", 0, 1)
	if out, err := exec.Command("sync", filepath.Join(mount, "mine.dirty")).CombinedOutput(); err == nil || !strings.Contains(string(out), "Input/output error") {
		t.Errorf("sync of the target's file: %v, %s; want an input/output error", err, out)
	}
	expectCounters(t, i, 1, 1)
}

// A file system that can't read or write its own structures stops for everybody, and
// stays so when the fault is over: those are not hit.
func TestFileSystemGoesOnForOthers(t *testing.T) {
	needDisk(t)
	device := newDisk(t)
	run(t, "mkfs.ext4", "-q", device)
	mount := t.TempDir()
	run(t, "mount", device, mount)
	if err := os.Mkdir(filepath.Join(mount, unread), 0o700); err != nil {
		t.Fatal(err)
	}
	// What the kernel remembers of folders is to be read again.
	run(t, "umount", mount)
	run(t, "mount", "-o", "errors=remount-ro", device, mount)
	t.Cleanup(func() { run(t, "umount", mount) })
	target, neighbour := targets(t)
	mine, other := newUser(t, target, filepath.Join(mount, "mine")), newUser(t, neighbour, filepath.Join(mount, "other"))
	mine.expect(map[int]int{0: 10}, "write", 0, 10)
	mine.expect(map[int]int{0: 1}, "sync", 0, 1)
	i := inject(t, failing(&v1.DiskError{
		Operations: []v1.DiskError_Operation{v1.DiskError_READ, v1.DiskError_WRITE}, MountPoint: mount,
	}), target)
	mine.expect(map[int]int{0: 20}, "look", 0, 20)
	mine.expect(map[int]int{eio: 10}, "read", 0, 10)
	mine.expect(map[int]int{eio: 10}, "write", 0, 10)
	// The file system may read ahead in its tables: that is asked for as data is.
	if c := i.Count(); c.Injected < 20 || c.Injected != c.Matched || c.Missed != 0 {
		t.Errorf("counters %+v", c)
	}
	i.End()
	other.expect(map[int]int{0: 10}, "write", 0, 10)
	other.expect(map[int]int{0: 1}, "sync", 0, 1)
	mine.expect(map[int]int{0: 10}, "read", 0, 10)
}

// Without the controller only who asks for it tells whose I/O is.
func TestWithoutTheIOController(t *testing.T) {
	needDisk(t)
	device := newDisk(t)
	target, neighbour := env.Cgroup(t), env.Cgroup(t)
	target, neighbour = env.Child(t, target, "a"), env.Child(t, neighbour, "a")
	mine, other := newUser(t, target, device), newUser(t, neighbour, device)
	i := inject(t, failing(&v1.DiskError{Operations: []v1.DiskError_Operation{v1.DiskError_READ}, Device: device}), target)
	if len(i.Plan.Warnings) != 1 || !strings.Contains(i.Plan.Warnings[0], "has no io controller") {
		t.Errorf("warnings %q", i.Plan.Warnings)
	}
	mine.expect(map[int]int{eio: 10}, "read", 0, 10)
	other.expect(map[int]int{0: 10}, "read", 0, 10)
	expectCounters(t, i, 10, 10)
}

func TestPlacesThatHaveNoDisk(t *testing.T) {
	needDisk(t)
	target := env.Cgroup(t)
	folder := t.TempDir()
	for want, at := range map[string]*v1.DiskError{
		"there is no device /dev/faultline-none": {Device: "/dev/faultline-none"},
		"/dev/null is no block device":           {Device: "/dev/null"},
		folder + " is no mount point":            {MountPoint: folder},
		"is on no block device of its own":       {MountPoint: "/proc"},
	} {
		at.Operations = []v1.DiskError_Operation{v1.DiskError_READ}
		if _, err := env.Plan(t, disk.Error(), failing(at), nil, target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
