package tracing

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/faults/fault"
)

// watch lists those programs of a fault that the kernel has. It keeps a program as
// long as something holds it, a link above all: what is attached is listed, and
// what is not is gone.
type watch struct {
	own []ebpf.ProgramID
	// begun: before that there is nothing to list.
	begun bool
}

func newWatch(programs []*ebpf.Program) (*watch, error) {
	w := &watch{}
	for _, program := range programs {
		info, err := program.Info()
		if err != nil {
			return nil, fmt.Errorf("asking for a program: %w", err)
		}
		id, _ := info.ID()
		w.own = append(w.own, id)
	}
	slices.Sort(w.own)
	return w, nil
}

func (w *watch) begin() { w.begun = true }

// Key implements fault.Watch.
func (w *watch) Key() string {
	var ids []string
	for _, id := range w.own {
		ids = append(ids, fmt.Sprint(id))
	}
	return "programs " + strings.Join(ids, ", ")
}

// State implements fault.Watch.
func (w *watch) State() ([]string, error) {
	if !w.begun {
		return nil, nil
	}
	var lines []string
	for _, id := range w.own {
		program, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking for program %d: %w", id, err)
		}
		info, err := program.Info()
		_ = program.Close()
		if err != nil {
			return nil, fmt.Errorf("asking for program %d: %w", id, err)
		}
		lines = append(lines, fmt.Sprintf("program %d %s", id, info.Name))
	}
	return lines, nil
}

// Differences implements fault.Watch.
func (w *watch) Differences(before, after []string) []string {
	return fault.Compare(before, after, func(string) bool { return true })
}
