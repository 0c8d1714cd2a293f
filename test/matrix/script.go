package main

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The lines that the script prints around each package's output. The space
// in front of the import path cannot come from a test's own output by chance.
const (
	beginMark = "##faultline-matrix begin "
	endMark   = "##faultline-matrix end "
)

// script returns the shell script that runs every binary in its package's
// directory, one after another, whatever the others did. It needs a POSIX
// shell and timeout(1), and runs as it is on the host and in a guest.
//
// run narrows the tests by a regular expression as of go test -run; empty runs
// all. limit is each binary's time: Go's own limit comes first, since it shows
// where every goroutine stands; timeout(1) is for a binary that is beyond that.
func script(root string, packages []testPackage, run string, limit time.Duration) string {
	var b strings.Builder
	b.WriteString("#!/bin/sh\n# Written by test/matrix; runs every test binary once.\n")
	fmt.Fprintf(&b, "export FAULTLINE_BINARY=%s\n", quote(root+"/bin/faultline"))
	for _, p := range packages {
		pattern := run
		if pattern == "" {
			pattern = exactly(p.Tests)
		}
		fmt.Fprintf(&b, "\nprintf '\\n%s%%s\\n' %s\n", beginMark, quote(p.ImportPath))
		fmt.Fprintf(&b, "(cd %s && exec timeout -k 5 %d %s -test.v=test2json -test.timeout=%s -test.run=%s) 2>&1 </dev/null\n",
			quote(p.Dir), int((limit + 20*time.Second).Seconds()), quote(p.Binary), limit, quote(pattern))
		fmt.Fprintf(&b, "printf '\\n%s%%s %%d\\n' %s $?\n", endMark, quote(p.ImportPath))
	}
	return b.String()
}

// exactly is the -run pattern of some top-level tests with all that is below.
func exactly(tests []string) string {
	quoted := make([]string, len(tests))
	for i, t := range tests {
		quoted[i] = regexp.QuoteMeta(t)
	}
	return "^(" + strings.Join(quoted, "|") + ")$"
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
