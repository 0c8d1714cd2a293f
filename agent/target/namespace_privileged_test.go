//go:build privileged

package target

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/test/env"
)

// answer is what a resolver in another process says.
type answer struct {
	Cgroups []fault.Cgroup
	Err     string
	Is      []string
}

// resolveWorkload resolves a cgroup in namespaces of its own: args are the
// kind of surroundings, the path that is mounted or "", and the target.
func resolveWorkload(in io.Reader, out *json.Encoder, args []string) error {
	flags := map[string]uintptr{
		"cgroupns": unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP,
		"bind":     unix.CLONE_NEWNS,
		"pidns":    unix.CLONE_NEWNS | unix.CLONE_NEWPID,
	}
	cmd := exec.Command("/proc/self/exe", args...)
	for _, v := range os.Environ() {
		if strings.HasSuffix(v, "=resolve") {
			v = strings.TrimSuffix(v, "resolve") + "inside"
		}
		cmd.Env = append(cmd.Env, v)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags[args[0]]}
	return cmd.Run()
}

func insideWorkload(_ io.Reader, out *json.Encoder, args []string) error {
	kind, dir, shown, target := args[0], args[1], args[2], args[3]
	r := &Resolver{CgroupRoot: dir}
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	switch kind {
	case "cgroupns":
		err = errors.Join(err, unix.Mount("none", dir, "cgroup2", 0, ""))
	case "bind":
		err = errors.Join(err, unix.Mount(shown, dir, "", unix.MS_BIND, ""))
	case "pidns":
		err = errors.Join(err, unix.Mount("proc", "/proc", "proc", 0, ""))
		r.CgroupRoot = shown
	}
	if err != nil {
		return err
	}
	var a answer
	a.Cgroups, err = r.Resolve(context.Background(), cgroup(target), 1)
	if err != nil {
		a.Err = err.Error()
	}
	for _, kind := range []error{ErrUnknownLevel, ErrProtected, ErrNotFound} {
		if errors.Is(err, kind) {
			a.Is = append(a.Is, kind.Error())
		}
	}
	return out.Encode(a)
}

func ask(t *testing.T, in fault.Cgroup, kind, shown, target string) answer {
	t.Helper()
	var a answer
	p := env.Start(t, in, nil, "resolve", kind, t.TempDir(), shown, target)
	p.Read(&a)
	p.Wait()
	return a
}

func TestLevelInACgroupNamespaceIsNotGuessed(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	child := env.Child(t, c, "child")
	a := ask(t, c, "cgroupns", "", "/child")
	if !slices.Contains(a.Is, ErrUnknownLevel.Error()) || !strings.Contains(a.Err, "cgroup namespace") {
		t.Errorf("answer %+v; the level is %d", a, child.Level)
	}
}

func TestLevelBelowABindMount(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	child := env.Child(t, c, "child")
	deep := env.Child(t, child, "deep")
	outside := env.Cgroup(t)
	a := ask(t, outside, "bind", c.Path, "/child/deep")
	if a.Err != "" || len(a.Cgroups) != 1 || a.Cgroups[0].Level != deep.Level || a.Cgroups[0].ID != deep.ID {
		t.Errorf("answer %+v, wanted %+v", a, deep)
	}
	// The mount's root is not the hierarchy's, and still not a target.
	if a := ask(t, outside, "bind", c.Path, "/"); !slices.Contains(a.Is, ErrProtected.Error()) {
		t.Errorf("answer %+v", a)
	}
}

func TestOtherPIDNamespaces(t *testing.T) {
	t.Parallel()
	c := env.Cgroup(t)
	root := env.CgroupRoot(t)
	// In its namespace the program that asks is PID 1.
	inner := env.Child(t, c, "inner")
	if a := ask(t, inner, "pidns", root, below(t, c)); !slices.Contains(a.Is, ErrProtected.Error()) || !strings.Contains(a.Err, "PID 1") {
		t.Errorf("answer %+v", a)
	}
	// What runs outside of it can't be examined, so it is not touched.
	other := env.Cgroup(t)
	env.StartProgram(t, other, nil, "cat")
	if a := ask(t, inner, "pidns", root, below(t, other)); !strings.Contains(a.Err, "another PID namespace") {
		t.Errorf("answer %+v", a)
	}
}

func TestMountIsFoundHere(t *testing.T) {
	t.Parallel()
	root, err := kernel.Cgroup2Mount()
	if err != nil {
		t.Fatal(err)
	}
	h, err := (&Resolver{CgroupRoot: root}).hierarchy()
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if h.base != 0 {
		t.Errorf("level of %s is %d", root, h.base)
	}
}
