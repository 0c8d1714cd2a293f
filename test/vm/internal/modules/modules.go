// Package modules finds which files of an unpacked kernel package have to be
// loaded for a module, from the lists that depmod(8) writes (modules.dep(5)).
package modules

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// ErrMissing says that a kernel has a module neither built in nor as a file.
var ErrMissing = errors.New("no such module")

// Tree is the module folder of one kernel version.
type Tree struct {
	files   map[string]string   // module name to its path in the folder
	needs   map[string][]string // path to the paths to load before it
	builtin map[string]bool
}

// Read reads modules.dep and modules.builtin of a /lib/modules/VERSION folder.
func Read(dir fs.FS) (*Tree, error) {
	t := &Tree{files: map[string]string{}, needs: map[string][]string{}, builtin: map[string]bool{}}
	err := lines(dir, "modules.dep", func(line string) error {
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("reading modules.dep: no colon in %q", line)
		}
		t.files[name(file)] = file
		t.needs[file] = strings.Fields(needs)
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = lines(dir, "modules.builtin", func(line string) error {
		t.builtin[name(line)] = true
		return nil
	})
	return t, err
}

// Order returns the files to load for the named modules, each after what it
// needs and none twice. Built-in modules need none. A module that the kernel
// lacks is an error that is ErrMissing.
func (t *Tree) Order(names ...string) ([]string, error) {
	var order []string
	seen := map[string]bool{}
	var add func(file string)
	add = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		// modules.dep lists every level, the nearest first.
		for _, needed := range t.needs[file] {
			add(needed)
		}
		order = append(order, file)
	}
	for _, n := range names {
		n = name(n)
		if t.builtin[n] {
			continue
		}
		file, ok := t.files[n]
		if !ok {
			return nil, fmt.Errorf("loading %s: %w", n, ErrMissing)
		}
		add(file)
	}
	return order, nil
}

// name makes "kernel/net/8021q/foo-bar.ko.xz" "foo_bar".
func name(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

func lines(dir fs.FS, file string, each func(line string) error) error {
	f, err := dir.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" {
			if err := each(line); err != nil {
				return err
			}
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	return nil
}
