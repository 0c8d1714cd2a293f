package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"faultline.dev/faultline/test/vm/kernels"
)

// dyingGuest runs the tests here, and dies in the second package the first time.
const dyingGuest = `#!/bin/sh
while [ $1 != -- ]; do
  if [ $1 = --console ]; then console=$2; fi
  shift
done
shift
if [ ! -e died ]; then
  touch died
  echo "%s" > "$console"
  "$@" | sed '/begin .*second/q'
  exit 125
fi
exec "$@"
`

// treeOf is a module whose guests are that script and whose packages have a test that
// passes.
func treeOf(guest string, packages ...string) map[string]string {
	tree := map[string]string{"go.mod": "module example.com/tree\n\ngo 1.26\n", "test/vm/run": guest}
	for _, name := range packages {
		tree[name+"/"+name+"_privileged_test.go"] = fmt.Sprintf(
			"//go:build privileged\n\npackage %s\n\nimport \"testing\"\n\nfunc TestPasses(*testing.T) {}\n", name)
	}
	return tree
}

// A guest that dies of the emulator is booted again; one that dies of something else is
// not.
func TestGuestThatDiesOfTheEmulatorIsBootedAgain(t *testing.T) {
	for console, want := range map[string]string{
		"Oops: int3: 0000 [#1] PREEMPT SMP": "<nil>",
		"BUG: kernel NULL pointer":          "3 problems",
	} {
		t.Run(console, func(t *testing.T) {
			var report strings.Builder
			m := newMatrixOf(t, treeOf(fmt.Sprintf(dyingGuest, console), "first", "second", "third"), allPackages)
			m.w, m.jobs = &report, 1
			m.options.packages = []string{allPackages}
			m.kernels = []kernels.Kernel{{ID: "debian-6.1"}}
			if got := fmt.Sprint(m.guests(t.Context())); got != want {
				t.Errorf("the error is %s, want %s\n%s", got, want, &report)
			}
			again := strings.Contains(report.String(), "from example.com/tree/second on")
			if again != (want == "<nil>") {
				t.Errorf("booted again: %v\n%s", again, &report)
			}
		})
	}
}

// hangingGuest never gets to the tests the first time.
const hangingGuest = `#!/bin/sh
while [ $1 != -- ]; do
  if [ $1 = --console ]; then console=$2; fi
  shift
done
shift
if [ ! -e hung ]; then
  touch hung
  echo "the last line of the console" > "$console"
  if [ %s = between ]; then "$@" | sed '/begin .*second/,$d'; fi
  exec sleep 3600
fi
exec "$@"
`

// A guest that hangs while it boots is booted again; one that hangs later, after
// something of ours, is not.
func TestGuestThatHangsAtBootIsBootedAgain(t *testing.T) {
	for state, want := range map[string]string{"boot": "<nil>", "between": "2 problems"} {
		t.Run(state, func(t *testing.T) {
			var report strings.Builder
			m := newMatrixOf(t, treeOf(fmt.Sprintf(hangingGuest, state), "first", "second"), allPackages)
			m.w, m.jobs, m.boot = &report, 1, 2*time.Second
			m.options.packages = []string{allPackages}
			m.kernels = []kernels.Kernel{{ID: "debian-6.1"}}
			if got := fmt.Sprint(m.guests(t.Context())); got != want {
				t.Errorf("the error is %s, want %s\n%s", got, want, &report)
			}
			again := strings.Contains(report.String(), "the last line of the console")
			if again != (want == "<nil>") {
				t.Errorf("booted again: %v\n%s", again, &report)
			}
		})
	}
}
