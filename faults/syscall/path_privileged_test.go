//go:build linux && privileged

package syscall_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/syscall"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// status asks for the state of a file, and has no room for the answer.
func status(path string) env.Order {
	return env.Order{Number: unix.SYS_NEWFSTATAT, Arguments: []int64{unix.AT_FDCWD, 0, nowhere, 0}, Texts: map[int]string{1: path}}
}

// Paths are compared as texts, whatever is behind them.
func TestPathsAsTheyAreWritten(t *testing.T) {
	onlyAMD64(t)
	env.EachMechanism(t, syscall.Error(), func(t *testing.T, mechanism string) {
		dir := t.TempDir()
		deep := filepath.Join(dir, strings.Repeat("d", 100), strings.Repeat("e", 100), strings.Repeat("f", 100))
		if err := os.MkdirAll(deep, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a.conf", "b.txt", deep[len(dir)+1:] + "/c.conf"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		inside, outside := env.NewCaller(t, target), env.NewCaller(t, neighbour)
		for _, tt := range []struct {
			pattern  string
			hit, not []string
		}{
			{dir + "/*.conf", []string{"/a.conf"}, []string{"/b.txt", "/./a.conf", deep[len(dir):] + "/c.conf"}},
			{dir + "/**", []string{"/a.conf", "", "/b.txt", deep[len(dir):] + "/c.conf", "/../" + filepath.Base(dir) + "/a.conf"}, nil},
			{"**/c.conf", []string{deep[len(dir):] + "/c.conf"}, []string{"/a.conf", deep[len(dir):]}},
		} {
			t.Run(strings.TrimPrefix(tt.pattern, dir), func(t *testing.T) {
				spec := fails(mechanism, "newfstatat")
				spec.GetSyscallError().Path = tt.pattern
				i := inject(t, spec, target)
				for _, path := range tt.hit {
					expect(t, path, inside.Do(status(dir+path)), env.Results{injected: 1})
					expect(t, "of the neighbour, "+path, outside.Do(status(dir+path)), env.Results{unix.EFAULT: 1})
				}
				for _, path := range tt.not {
					expect(t, path, inside.Do(status(dir+path)), env.Results{unix.EFAULT: 1})
				}
				expectCounters(t, i, uint64(len(tt.hit)), uint64(len(tt.hit)))
				if !atEntry(mechanism) {
					i.End()
					return // nobody is asked about a path that leads nowhere
				}
				expect(t, "no path", inside.Do(env.Order{Number: unix.SYS_NEWFSTATAT, Arguments: []int64{unix.AT_FDCWD, 0, nowhere, 0}}), env.Results{unix.EFAULT: 1})
				expectCounters(t, i, uint64(len(tt.hit)), uint64(len(tt.hit)))
				// What can't be read can't be compared, and is told.
				expect(t, "a wild pointer", inside.Do(env.Order{Number: unix.SYS_NEWFSTATAT, Arguments: []int64{unix.AT_FDCWD, nowhere, nowhere, 0}}), env.Results{unix.EFAULT: 1})
				expect(t, "a long path", inside.Do(status(dir+strings.Repeat("/.", 260))), env.Results{unix.EFAULT: 1})
				if c, want := i.Count(), (fault.Counters{Matched: uint64(len(tt.hit)), Injected: uint64(len(tt.hit)), Missed: 2}); c != want {
					t.Errorf("counters %+v, want %+v", c, want)
				}
				i.End()
			})
		}
		if !atEntry(mechanism) {
			return
		}
		t.Run("one of two", func(t *testing.T) {
			spec := fails(mechanism, "renameat2", "unlinkat")
			spec.GetSyscallError().Path = "/nowhere/*.db"
			i := inject(t, spec, target)
			rename := func(from, to string) env.Results {
				return inside.Do(env.Order{
					Number: unix.SYS_RENAMEAT2, Arguments: []int64{unix.AT_FDCWD, 0, unix.AT_FDCWD, 0, 0}, Texts: map[int]string{1: from, 3: to},
				})
			}
			expect(t, "from", rename("/nowhere/x.db", "/nowhere/y"), env.Results{injected: 1})
			expect(t, "to", rename("/nowhere/y", "/nowhere/x.db"), env.Results{injected: 1})
			expect(t, "neither", rename("/nowhere/y", "/nowhere/x"), env.Results{unix.ENOENT: 1})
			expect(t, "unlinkat", inside.Do(env.Order{
				Number: unix.SYS_UNLINKAT, Arguments: []int64{unix.AT_FDCWD, 0, 0}, Texts: map[int]string{1: "/nowhere/x.db"},
			}), env.Results{injected: 1})
			expectCounters(t, i, 3, 3)
			i.End()
		})
		t.Run("of 32 bits", func(t *testing.T) {
			spec := fails(mechanism, "mkdirat")
			spec.GetSyscallError().Path = "/nowhere/*"
			i := inject(t, spec, target)
			if warned := strings.Join(i.Plan.Warnings, "\n"); strings.Contains(warned, "not hit: calls of 32-bit processes") {
				i.End()
				kernels.Missing(t, "calls-of-32-bit", errors.New(warned))
			}
			mkdir := env.Order{Number: 296, Compat: true, Arguments: []int64{unix.AT_FDCWD, 0, 0}, Texts: map[int]string{1: "/nowhere/x"}}
			expect(t, "a path that is meant", inside.Do(mkdir), env.Results{injected: 1})
			mkdir.Texts[1] = "/elsewhere/x"
			expect(t, "another", inside.Do(mkdir), env.Results{unix.ENOENT: 1})
			i.End()
		})
	})
}
