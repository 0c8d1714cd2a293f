//go:build privileged

package target

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(relayVariable); socket != "" {
		if err := runRelay(socket); err != nil && !errors.Is(err, net.ErrClosed) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	env.Main(m, map[string]env.Workload{"resolve": resolveWorkload, "inside": insideWorkload, "threads": env.Threads})
}

func newResolver(t *testing.T) *Resolver {
	return &Resolver{CgroupRoot: env.CgroupRoot(t), SelfPID: os.Getpid()}
}

// below is the path of a cgroup as a document names it.
func below(t *testing.T, c fault.Cgroup) string {
	return strings.TrimPrefix(c.Path, env.CgroupRoot(t))
}

func pid(n int) *v1.Target { return &v1.Target{Target: &v1.Target_Pid{Pid: int32(n)}} }

func wantCgroups(t *testing.T, r *Resolver, target *v1.Target, want ...fault.Cgroup) {
	t.Helper()
	got, err := r.Resolve(t.Context(), target, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%v (-want +got):\n%s", target, diff)
	}
}

func wantRefused(t *testing.T, r *Resolver, target *v1.Target, kind error, parts ...string) {
	t.Helper()
	got, err := r.Resolve(t.Context(), target, 1)
	if !errors.Is(err, kind) {
		t.Errorf("%v: resolved to %v, error %v; wanted %q", target, got, err, kind)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v: error %q does not contain %q", target, err, part)
		}
	}
}

func TestCgroupByPath(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	c := env.Cgroup(t)
	child := env.Child(t, c, "cart")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(child.Path, link); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{
		below(t, child), strings.TrimPrefix(below(t, child), "/"), child.Path,
		below(t, child) + "/", below(t, c) + "//./cart", link,
	} {
		wantCgroups(t, r, cgroup(given), child)
	}
	if child.Level != c.Level+1 || child.ID == c.ID {
		t.Errorf("cgroups %+v and %+v", c, child)
	}
}

func TestCgroupByPattern(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	c := env.Cgroup(t)
	a, b, odd := env.Child(t, c, "b-cart"), env.Child(t, c, "a-cart"), env.Child(t, c, `odd[1]\x2d`)
	env.Child(t, a, "deeper")
	wantCgroups(t, r, cgroup(below(t, c)+"/*-cart"), b, a)
	wantCgroups(t, r, cgroup(c.Path+"/[a]-*"), b)
	wantCgroups(t, r, cgroup(below(t, c)+`/odd[1]\x2d`), odd)
	wantCgroups(t, r, cgroup(below(t, c)+`/odd*\x2d`), odd)
	wantRefused(t, r, cgroup(below(t, c)+"/x*"), ErrNotFound, "matches nothing", "nearest cgroup that exists is "+below(t, c), "a-cart, b-cart")
	wantRefused(t, r, cgroup(below(t, c)+"/[x"), ErrInvalid, "not a pattern")

	one := cgroup(below(t, c) + "/*-cart")
	one.Pick = count(1)
	first, err := r.Resolve(t.Context(), one, 5)
	if err != nil || len(first) != 1 {
		t.Fatalf("picked %v, %v", first, err)
	}
	again, err := r.Resolve(t.Context(), one, 5)
	if err != nil || !cmp.Equal(first, again) {
		t.Errorf("picked %v, then %v, %v", first, again, err)
	}
}

func TestCgroupThatIsNone(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	c := env.Cgroup(t)
	leaf := env.Child(t, c, "leaf")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, r, cgroup(below(t, leaf)+"/a/b"), ErrNotFound, "does not exist", "nearest cgroup that exists is "+below(t, leaf), "no children")
	wantRefused(t, r, cgroup(below(t, c)+"/cgroup.procs"), ErrNotFound, "does not exist")
	wantRefused(t, r, cgroup(""), ErrInvalid, "empty")
	wantRefused(t, r, cgroup(below(t, c)+"/../x"), ErrInvalid, `".."`)
	wantRefused(t, r, cgroup("/etc"), ErrNotFound, "not a cgroup")
	wantRefused(t, r, cgroup(link), ErrNotFound, "not a cgroup")
}

func TestCgroupOfVersionOneIsRefused(t *testing.T) {
	t.Parallel()
	// A hierarchy of version 1 without controllers can be mounted beside
	// the others on each kernel that has version 1 at all.
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "cgroup", 0, "none,name=faultline-test"); err != nil {
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
			t.Skipf("this kernel has no cgroup version 1: %v", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Within(10*time.Second, func() error { return unix.Unmount(dir, 0) }); err != nil {
			t.Error(err)
		}
	})
	wantRefused(t, newResolver(t), cgroup(dir), ErrInvalid, "version 1")
}

func TestCgroupByPID(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	c := env.Cgroup(t)
	p := env.StartProgram(t, c, nil, "cat")
	wantCgroups(t, r, pid(p.PID()), c)

	wantRefused(t, r, pid(0), ErrInvalid, "above 0")
	wantRefused(t, r, pid(-5), ErrInvalid, "above 0")
	wantRefused(t, r, pid(1<<30), ErrNotFound, "no process has pid")
	wantRefused(t, r, pid(2), ErrProtected, "kernel thread", "kthreadd")
	wantRefused(t, r, pid(1), ErrProtected)
	wantRefused(t, r, pid(os.Getpid()), ErrProtected)

	zombie := exec.Command("true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, zombie.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, r, pid(zombie.Process.Pid), ErrNotFound, "has ended")
	if err := zombie.Wait(); err != nil {
		t.Fatal(err)
	}

	root := exec.Command("cat")
	in, err := root.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(env.CgroupRoot(t))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	root.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := root.Start(); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, r, pid(root.Process.Pid), ErrProtected, "root cgroup", "systemd-run")
	if err := errors.Join(in.Close(), root.Wait()); err != nil {
		t.Fatal(err)
	}
}

func TestThreadIsNotAProcess(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	p := env.Start(t, c, nil, "threads")
	var tids []int
	p.Read(&tids)
	i := slices.IndexFunc(tids, func(tid int) bool { return tid != p.PID() })
	wantRefused(t, newResolver(t), pid(tids[i]), ErrInvalid, fmt.Sprintf("thread of process %d", p.PID()))
}

func TestProtected(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	child := env.Child(t, c, "child")
	r := newResolver(t)
	wantRefused(t, r, cgroup("/"), ErrProtected, "root of the hierarchy")
	wantRefused(t, r, cgroup(env.CgroupRoot(t)), ErrProtected, "root of the hierarchy")
	wantCgroups(t, r, cgroup(c.Path), c)

	self := env.StartProgram(t, child, nil, "cat")
	r.SelfPID = self.PID()
	wantRefused(t, r, cgroup(child.Path), ErrProtected, "cgroup of this program")
	wantRefused(t, r, cgroup(c.Path), ErrProtected, "contains the cgroup of this program", child.Path)
	wantRefused(t, r, pid(self.PID()), ErrProtected, "cgroup of this program")
	wantRefused(t, r, cgroup(c.Path+"/*"), ErrProtected, "cgroup of this program")
	beside := env.Child(t, c, "chi") // not an ancestor, for all its name
	wantCgroups(t, r, cgroup(beside.Path), beside)

	// Whether it is refused must not depend on what the seed picks.
	both := cgroup(c.Path + "/*")
	both.Pick = count(1)
	for seed := range uint64(8) {
		if got, err := r.Resolve(t.Context(), both, seed); !errors.Is(err, ErrProtected) {
			t.Errorf("seed %d: %v, %v", seed, got, err)
		}
	}
}

func TestProtectedPrograms(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	cat, err := exec.LookPath("cat")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(cat)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sshd", "sshd-session", "kubelet", "containerd", "crio", "dockerd"} {
		c := env.Cgroup(t)
		p := startAndAnswer(t, env.Child(t, c, "deep"), program(t, text, name))
		wantRefused(t, r, cgroup(c.Path), ErrProtected, fmt.Sprintf("(pid %d) is in it", p.PID()))
	}
	for _, name := range []string{"conmon", "containerd-shim-runc-v2", "sshd2"} {
		c := env.Cgroup(t)
		startAndAnswer(t, c, program(t, text, name))
		wantCgroups(t, r, cgroup(c.Path), c)
	}
	// An upgrade has replaced the program that still runs.
	c := env.Cgroup(t)
	path := program(t, text, "sshd")
	startAndAnswer(t, c, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, r, cgroup(c.Path), ErrProtected, "sshd")
}

// startAndAnswer starts a copy of cat and waits for its answer: for a moment
// after the start /proc/PID/exe may still name the test (seen on 6.1).
func startAndAnswer(t *testing.T, c fault.Cgroup, path string) *env.Process {
	t.Helper()
	p := env.StartProgram(t, c, nil, path)
	p.Tell("hello")
	if p.Line() != "hello" {
		t.Error("cat does not answer")
	}
	return p
}

func program(t *testing.T, text []byte, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	// A process that is forked meanwhile would hold the file open for writing
	// until it executes its own program, and this one could not be (ETXTBSY).
	syscall.ForkLock.RLock()
	err := os.WriteFile(path, text, 0o755)
	syscall.ForkLock.RUnlock()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
