package check

import (
	"fmt"
	"strings"

	"faultline.dev/faultline/api/nearest"
	"golang.org/x/sys/unix"
)

// lastErrno is EHWPOISON, the highest of errno(3) on Linux.
const lastErrno = 133

// sameErrno are names for a number that has another name too.
var sameErrno = map[string]unix.Errno{
	"EWOULDBLOCK": unix.EWOULDBLOCK,
	"EDEADLOCK":   unix.EDEADLOCK,
	"ENOTSUP":     unix.ENOTSUP,
	"EOPNOTSUPP":  unix.EOPNOTSUPP,
}

// ErrnoByName returns the error number of a name such as "EIO".
func ErrnoByName(name string) (unix.Errno, error) {
	names := make([]string, 0, lastErrno)
	for e := unix.Errno(1); e <= lastErrno; e++ {
		known := unix.ErrnoName(e)
		if known == "" {
			continue
		}
		if known == name {
			return e, nil
		}
		names = append(names, known)
	}
	if e, ok := sameErrno[name]; ok {
		return e, nil
	}
	hint := "write a name of errno(3), such as EIO"
	if word, ok := nearest.Word(name, names); ok {
		hint = fmt.Sprintf("did you mean %s?", word)
	}
	return 0, fmt.Errorf("unknown error %q; %s", name, hint)
}

// Errno checks the name of an error that must be given.
func (p *Problems) Errno(field, name string) {
	if name == "" {
		p.Add(field, "is missing; give the name of an error of errno(3), such as EIO")
		return
	}
	if _, err := ErrnoByName(name); err != nil {
		p.Add(field, "%s", err)
	}
}

// SignalByName returns the signal of a name such as "SIGTERM".
func SignalByName(name string) (unix.Signal, error) {
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	var names []string
	for s := unix.Signal(1); s < 32; s++ {
		if known := unix.SignalName(s); known != "" {
			names = append(names, known)
		}
	}
	if s := "SIG" + strings.ToUpper(name); unix.SignalNum(s) != 0 {
		return 0, fmt.Errorf("unknown signal %q; did you mean %s?", name, s)
	}
	hint := "write a name of signal(7), such as SIGTERM"
	if word, ok := nearest.Word(name, names); ok {
		hint = fmt.Sprintf("did you mean %s?", word)
	}
	return 0, fmt.Errorf("unknown signal %q; %s", name, hint)
}
