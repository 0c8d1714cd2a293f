package main

import (
	"fmt"
	"strings"
	"testing"

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

// A guest that dies of the emulator is booted again; one that dies of something else is
// not.
func TestGuestThatDiesOfTheEmulatorIsBootedAgain(t *testing.T) {
	const passing = "//go:build privileged\n\npackage %s\n\nimport \"testing\"\n\nfunc TestPasses(*testing.T) {}\n"
	for console, want := range map[string]string{
		"Oops: int3: 0000 [#1] PREEMPT SMP": "<nil>",
		"BUG: kernel NULL pointer":          "3 problems",
	} {
		t.Run(console, func(t *testing.T) {
			tree := map[string]string{"go.mod": "module example.com/tree\n\ngo 1.26\n", "test/vm/run": fmt.Sprintf(dyingGuest, console)}
			for _, name := range []string{"first", "second", "third"} {
				tree[name+"/"+name+"_privileged_test.go"] = fmt.Sprintf(passing, name)
			}
			var report strings.Builder
			m := newMatrixOf(t, tree, allPackages)
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
