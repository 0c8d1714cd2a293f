//go:build linux && privileged

package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/file"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// operation is one by the words of the workload: those in before prepare, and are not to
// be hit.
type operation struct {
	operation v1.FileOperation
	before    [][]string
	words     []string
}

var operations = []operation{
	{v1.FileOperation_OPEN, nil, []string{"open", "0", "@"}},
	{v1.FileOperation_READ, [][]string{{"open", "1", "@"}}, []string{"read", "1"}},
	{v1.FileOperation_WRITE, [][]string{{"append", "2", "@"}}, []string{"write", "2"}},
	{v1.FileOperation_MMAP, [][]string{{"open", "3", "@"}}, []string{"mmap", "3"}},
	{v1.FileOperation_STAT, nil, []string{"stat", "@"}},
	{v1.FileOperation_STAT, [][]string{{"open", "4", "@"}}, []string{"fstat", "4"}},
	{v1.FileOperation_CHMOD, nil, []string{"chmod", "@"}},
	{v1.FileOperation_IOCTL, [][]string{{"open", "5", "@"}}, []string{"ioctl", "5"}},
	{v1.FileOperation_LOCK, [][]string{{"open", "6", "@"}}, []string{"lock", "6"}},
	{v1.FileOperation_STATFS, nil, []string{"statfs", "@"}},
	{v1.FileOperation_TRUNCATE, nil, []string{"truncate", "@"}},
	{v1.FileOperation_TRUNCATE, [][]string{{"append", "7", "@"}}, []string{"ftruncate", "7"}},
	{v1.FileOperation_LINK, nil, []string{"link", "@", "@.other"}},
	{v1.FileOperation_LINK, nil, []string{"symlink", "/", "@.symbolic"}},
	{v1.FileOperation_MKDIR, nil, []string{"mkdir", "@.dir"}},
	{v1.FileOperation_UNLINK, [][]string{{"mkdir", "@.empty"}}, []string{"rmdir", "@.empty"}},
	{v1.FileOperation_RENAME, nil, []string{"rename", "@", "@.new"}},
	{v1.FileOperation_UNLINK, nil, []string{"unlink", "@.new"}},
}

func at(path string, words []string) []string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = strings.ReplaceAll(w, "@", path)
	}
	return list
}

// Every operation fails below the path, and nowhere else, for the target and for
// nobody else.
func TestEachOperationFails(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		inside, outside := newUser(t, target), newUser(t, env.Cgroup(t))
		dir := newDir(t)
		hit, elsewhere, others := put(t, dir+"/hit/a"), put(t, dir+"/elsewhere/a"), put(t, dir+"/hit/b")
		for n, op := range operations {
			// The programs are the same for both.
			if mechanism != file.Error().Mechanisms[0].Name && env.Prober(t).Probe(t.Context(), kernel.LSM).OK() && n%4 != 0 && os.Getenv("FAULTLINE_ALL_CALLS") == "" {
				continue
			}
			for _, before := range op.before {
				inside.must(at(hit, before)...)
			}
			i := inject(t, fails(mechanism, dir+"/hit/**", op.operation), target)
			inside.expect(injected, at(hit, op.words)...)
			expectCounters(t, i, 1, 1)
			for _, who := range []struct {
				user user
				path string
			}{{inside, elsewhere}, {outside, others}} {
				for _, before := range op.before {
					who.user.must(at(who.path, before)...)
				}
				who.user.expect(0, at(who.path, op.words)...)
			}
			i.End()
			inside.expect(0, at(hit, op.words)...)
			if t.Failed() {
				t.Fatalf("with %s", op.operation)
			}
		}
	})
}

// What leads to a file does not count, only the file.
func TestPathsThatAreFooledByNothing(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		dir := newDir(t)
		put(t, dir+"/data/sub/file")
		put(t, dir+"/data/other.txt")
		put(t, dir+"/outside/file")
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(os.Symlink(dir+"/data/sub", dir+"/to-sub"))
		must(os.Symlink("../data/sub/file", dir+"/outside/to-file"))
		must(os.Link(dir+"/data/sub/file", dir+"/outside/hard"))
		must(os.Mkdir(dir+"/bound", 0o755))
		must(unix.Mount(dir+"/data", dir+"/bound", "", unix.MS_BIND, ""))
		t.Cleanup(func() { _ = unix.Unmount(dir+"/bound", unix.MNT_DETACH) })

		u := newUser(t, target)
		rooted := newUser(t, target, dir+"/data")
		u.must("open", "old", dir+"/data/sub/file")
		entries := uint64(16)
		i := inject(t, fails(mechanism, dir+"/data/**", v1.FileOperation_OPEN, v1.FileOperation_READ), target)

		u.expect(injected, "open", "0", dir+"/data/sub/file")
		u.expect(injected, "open", "0", dir+"/outside/../data/sub/./file")
		u.expect(injected, "open", "0", dir+"/to-sub/file")
		u.expect(injected, "open", "0", dir+"/outside/to-file")
		u.expect(injected, "open", "0", dir+"/outside/hard")
		u.expect(injected, "open", "0", dir+"/bound/sub/file")
		rooted.expect(injected, "open", "0", "/sub/file")
		u.must("chdir", dir+"/data/sub")
		u.expect(injected, "open", "0", "file")
		u.expect(injected, "open", "0", "../other.txt")
		u.expect(injected, "open", "0", "/proc/"+u.PID()+"/cwd/file")
		u.expect(injected, "open", "0", dir+"/data")
		if runtime.GOARCH == "amd64" {
			// openat by the entry of 32-bit processes.
			order := env.Order{Number: 295, Compat: true, Arguments: []int64{unix.AT_FDCWD, 0, 0}, Texts: map[int]string{1: dir + "/to-sub/file"}}
			if got := env.NewCaller(t, target).Do(order); got[injected] != 1 {
				t.Errorf("a call of 32 bits: %v", got)
			}
			entries++
		}
		// Descriptors from before.
		u.expect(injected, "read", "old")
		// What is made while it lasts.
		u.expect(injected, "create", "0", dir+"/data/new")
		put(t, dir+"/data/made/by/others")
		u.expect(injected, "open", "0", dir+"/data/made/by/others")

		u.expect(0, "open", "0", dir+"/outside/file")
		u.expect(0, "open", "0", dir)
		rooted.expect(unix.ENOENT, "open", "0", "/outside/file")
		// It has moved away, and the open file with it.
		u.must("rename", dir+"/data/sub/file", dir+"/outside/moved")
		u.must("unlink", dir+"/outside/hard")
		u.expect(0, "open", "1", dir+"/outside/moved")
		u.expect(0, "read", "old")
		u.must("rename", dir+"/outside/moved", dir+"/data/back")
		u.expect(injected, "read", "1")
		// Nobody finds it any more, but those who have it open.
		u.must("unlink", dir+"/data/back")
		u.expect(injected, "read", "1")
		if c := i.Count(); c.Missed != 0 || c.Injected != entries || c.Matched != entries {
			t.Errorf("counters %+v", c)
		}
	})
}

func TestPatternsInTheKernel(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		u := newUser(t, target)
		dir := newDir(t)
		long := strings.Repeat("long-", 50) // 250 characters
		for _, name := range []string{"a.log", "b.txt", "sub/a.log", "sub/deep/er/c.log", "x1", "x22", ".hidden", long, long + "/" + long + "/z"} {
			if name == long {
				continue
			}
			put(t, dir+"/"+name)
		}
		deep := strings.Repeat("/d", 25)
		put(t, dir+deep+"/f")
		for _, tt := range []struct {
			pattern  string
			hit, not []string
		}{
			{"/*.log", []string{"a.log"}, []string{"b.txt", "sub/a.log", "sub/deep/er/c.log"}},
			{"/**/*.log", []string{"a.log", "sub/a.log", "sub/deep/er/c.log"}, []string{"b.txt"}},
			{"/a.log", []string{"a.log"}, []string{"b.txt", "sub/a.log"}},
			{"/sub/*/er/**", []string{"sub/deep/er/c.log"}, []string{"sub/a.log"}},
			{"/x?", []string{"x1"}, []string{"x22"}},
			{"/x[0-1]*", []string{"x1"}, []string{"x22"}},
			{"/*", []string{"a.log", ".hidden", "sub"}, []string{"sub/a.log"}},
			{"/**", []string{"", "a.log", "sub/deep/er/c.log", long + "/" + long + "/z", deep + "/f"}, nil},
			{"/*long-", []string{long}, []string{long + "/" + long, "a.log"}},
			{"/not/there/yet/**", nil, []string{"a.log", "sub/a.log"}},
		} {
			i := inject(t, fails(mechanism, dir+tt.pattern, v1.FileOperation_OPEN), target)
			for _, name := range tt.hit {
				u.expect(injected, "open", "0", filepath.Join(dir, name))
			}
			for _, name := range tt.not {
				u.expect(0, "open", "0", filepath.Join(dir, name))
			}
			expectCounters(t, i, uint64(len(tt.hit)), uint64(len(tt.hit)))
			i.End()
			if t.Failed() {
				t.Fatalf("with %s", tt.pattern)
			}
		}
		i := inject(t, fails(mechanism, dir+"/not/there/yet/**", v1.FileOperation_OPEN), target)
		put(t, dir+"/not/there/yet/but/now")
		u.expect(injected, "open", "0", dir+"/not/there/yet/but/now")
		i.End()
	})
}

// Another file system has files with the same inode numbers, and below the path there
// may be others still.
func TestFileSystemsBelowAndBeside(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		u := newUser(t, target)
		dir, twin := newDir(t), newDir(t)
		put(t, dir+"/data/file")
		put(t, twin+"/data/file")
		inode := func(path string) uint64 {
			var stat unix.Stat_t
			if err := unix.Stat(path, &stat); err != nil {
				t.Fatal(err)
			}
			return stat.Ino
		}
		if inode(dir+"/data") != inode(twin+"/data") {
			t.Fatal("the two file systems number their files differently")
		}
		mounted := dir + "/data/mounted"
		if err := os.MkdirAll(mounted, 0o755); err != nil {
			t.Fatal(err)
		}
		mountTmpfs(t, mounted)
		put(t, mounted+"/deep/file")

		i := inject(t, fails(mechanism, dir+"/data/**", v1.FileOperation_OPEN), target)
		u.expect(injected, "open", "0", dir+"/data/file")
		u.expect(0, "open", "0", twin+"/data/file")
		u.expect(injected, "open", "0", mounted+"/deep/file")
		// One that comes later is seen with the next look.
		late := dir + "/data/late"
		if err := os.MkdirAll(late, 0o755); err != nil {
			t.Fatal(err)
		}
		mountTmpfs(t, late)
		put(t, late+"/file")
		if err := i.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		u.expect(injected, "open", "0", late+"/file")
		i.End()

		i = inject(t, fails(mechanism, dir+"/*/mounted/*/file", v1.FileOperation_OPEN), target)
		u.expect(injected, "open", "0", mounted+"/deep/file")
		u.expect(0, "open", "0", dir+"/data/file")
		i.End()
	})
}

// A path is what the processes of the target take it for.
func TestMountNamespaceOfTheTarget(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		dir := newDir(t)
		put(t, dir+"/inside/etc/file")
		put(t, dir+"/etc/file")
		rooted, plain := newUser(t, target, dir+"/inside"), newUser(t, env.Cgroup(t))
		i := inject(t, fails(mechanism, "/etc/*", v1.FileOperation_OPEN), target)
		rooted.expect(injected, "open", "0", "/etc/file")
		plain.expect(0, "open", "0", dir+"/inside/etc/file")
		plain.expect(0, "open", "0", "/etc/passwd")
		expectCounters(t, i, 1, 1)
		i.End()
	})
}

func TestSeveralErrnosComeByTheirWeight(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		u := newUser(t, target)
		name := put(t, newDir(t)+"/file")
		spec := fails(mechanism, name, v1.FileOperation_STAT)
		spec.GetFileError().Errno = ""
		spec.GetFileError().Errnos = []*v1.WeightedErrno{{Errno: "EIO", Weight: 3}, {Errno: "ENOTNAM", Weight: 1}}
		i := inject(t, spec, target)
		const times = 800
		counts := map[unix.Errno]int{}
		for range times {
			counts[u.do("stat", name)]++
		}
		// 200 expected, standard deviation 12: six of them.
		if n := counts[injected]; counts[unix.EIO]+n != times || n < 128 || n > 272 {
			t.Errorf("results by errno %v", counts)
		}
		expectCounters(t, i, times, times)
		i.End()
	})
}

func TestRateObserveLeaseAndEvents(t *testing.T) {
	eachMechanism(t, func(t *testing.T, mechanism string) {
		target := env.Cgroup(t)
		u := newUser(t, target)
		name := put(t, newDir(t)+"/file")
		spec := fails(mechanism, name, v1.FileOperation_STAT)
		spec.Rate = &v1.Rate{Every: proto.Uint64(3)}
		i := inject(t, spec, target)
		for n := range 9 {
			want := unix.Errno(0)
			if n%3 == 2 {
				want = injected
			}
			u.expect(want, "stat", name)
		}
		expectCounters(t, i, 9, 3)
		event := env.FirstEvent(t, i)
		if event.GetWhat() != "STAT" || event.GetPath() != "file" || event.GetErrno() != "ENOTNAM" || event.GetCgroupId() != target.ID {
			t.Errorf("event %v", event)
		}
		if err := i.Renew(fault.Lease{Deadline: fault.BootTime()}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			u.expect(0, "stat", name)
		}
		expectCounters(t, i, 9, 3)
		i.End()

		spec.Observe = true
		i = inject(t, spec, target)
		for range 9 {
			u.expect(0, "stat", name)
		}
		expectCounters(t, i, 9, 3)
		i.End()
	})
}

// No hook is asked for fsync: its call is met, and its descriptor followed.
// needSync skips a test of FSYNC on kernels that can't do it.
func needSync(t *testing.T) {
	t.Helper()
	prober := env.Prober(t)
	for _, need := range []kernel.Capability{kernel.FmodRetSyscall, kernel.FmodRetSecurity} {
		if answer := prober.Probe(t.Context(), need); !answer.OK() {
			kernels.Missing(t, string(need), errors.New(answer.Reason))
		}
	}
}

func TestSyncFails(t *testing.T) {
	needSync(t)
	target := env.Cgroup(t)
	inside, outside := newUser(t, target), newUser(t, env.Cgroup(t))
	dir := newDir(t)
	put(t, dir+"/data/file")
	put(t, dir+"/other")
	for _, u := range []user{inside, outside} {
		u.must("append", "1", dir+"/data/file")
		u.must("append", "2", dir+"/other")
	}
	i := inject(t, fails("", dir+"/data/**", v1.FileOperation_FSYNC), target)
	if i.Plan.Mechanism != "fmod_ret" {
		t.Errorf("mechanism %s", i.Plan.Mechanism)
	}
	inside.expect(injected, "fsync", "1")
	inside.expect(injected, "fdatasync", "1")
	inside.expect(0, "fsync", "2")
	inside.expect(unix.EBADF, "fsync", "nobody")
	outside.expect(0, "fsync", "1")
	expectCounters(t, i, 2, 2)
	i.End()
	inside.expect(0, "fsync", "1")

	i = inject(t, fails("", dir+"/data/**", v1.FileOperation_FSYNC, v1.FileOperation_WRITE), target)
	if !strings.HasSuffix(i.Plan.Mechanism, "+fmod_ret") {
		t.Errorf("mechanism %s", i.Plan.Mechanism)
	}
	inside.expect(injected, "fsync", "1")
	inside.expect(injected, "write", "1")
	inside.expect(0, "write", "2")
	expectCounters(t, i, 2, 2)
	i.End()
	for mechanism, operations := range map[string][]v1.FileOperation{
		"fmod_ret":          {v1.FileOperation_FSYNC, v1.FileOperation_WRITE},
		"fmod_ret_security": {v1.FileOperation_FSYNC},
	} {
		spec := fails(mechanism, dir+"/data/**", operations...)
		if _, err := env.Plan(t, file.Error(), spec, nil, target); err == nil || !strings.Contains(err.Error(), "FSYNC") {
			t.Errorf("%s: error %v", mechanism, err)
		}
	}
}

func TestWhatThePlanRefuses(t *testing.T) {
	target := env.Cgroup(t)
	for want, spec := range map[string]*v1.Fault{
		"63 characters":      fails("", "/*"+strings.Repeat("x", 70), v1.FileOperation_OPEN),
		"at most 16":         fails("", "/*"+strings.Repeat("/x", 20), v1.FileOperation_OPEN),
		"PINNED":             {Persistence: v1.Fault_PINNED, Fault: fails("", "/var/*", v1.FileOperation_OPEN).Fault},
		"no mechanism \"x\"": fails("x", "/var/*", v1.FileOperation_OPEN),
	} {
		if _, err := env.Plan(t, file.Error(), spec, nil, target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
