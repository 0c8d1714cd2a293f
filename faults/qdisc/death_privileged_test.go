//go:build linux && privileged

package qdisc_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/qdisc"
	"faultline.dev/faultline/test/env"
	"faultline.dev/faultline/test/vm/kernels"
)

// die runs the steps in a process that dies at the moment, and tells whether it
// came there.
func (d *device) die(record recordFile, moment string, steps ...string) bool {
	d.t.Helper()
	cmd := env.Again("fault", d.args(record)...)
	cmd.Env = append(cmd.Env, failpoint.Variable+"="+moment)
	cmd.Stdin = strings.NewReader(strings.Join(steps, "\n") + "\n")
	output, err := cmd.Output()
	if cmd.ProcessState == nil {
		d.t.Fatal(err)
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		if status.Signal() != syscall.SIGKILL {
			d.t.Fatal(err)
		}
		return true
	}
	if err != nil || strings.Count(string(output), `"done"`) != len(steps) {
		d.t.Fatalf("%s: %v\n%s", moment, err, output)
	}
	return false
}

// revert undoes by the record alone, twice.
func (d *device) revert(record recordFile) {
	d.t.Helper()
	for range 2 {
		if err := record.revert(); err != nil {
			d.t.Error(err)
		}
	}
}

// some are all trees, or in a guest a few: every kernel draws its own, and
// emulation is slow. FAULTLINE_DEATHS asks for all.
func some(t *testing.T) []tree {
	t.Helper()
	list := slices.Clone(trees)
	if _, guest, err := kernels.Current(); err != nil {
		t.Fatal(err)
	} else if guest && os.Getenv("FAULTLINE_DEATHS") == "" {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = list[:1]
	}
	return list
}

// A process dies between any two steps, and so does one that takes back what
// it has left.
func TestDeathBetweenSteps(t *testing.T) {
	needs(t, kernel.FQ)
	available := hooks(t)
	hook := available[len(available)-1]
	for _, tr := range some(t) {
		t.Run(tr.name, func(t *testing.T) {
			d := tr.make(t, hook)
			before := d.dump()
			deaths := map[failpoint.Name]int{}
			for _, moment := range []failpoint.Name{failpoint.QdiscRecorded, failpoint.QdiscReplaced, failpoint.QdiscRestored} {
				for passage := 1; ; passage++ {
					record := d.record()
					if !d.die(record, fmt.Sprintf("%s#%d", moment, passage), append(begun, "undo")...) {
						d.clean(before)
						break
					}
					deaths[moment]++
					// The first who takes it back dies after its first step.
					d.die(record, string(failpoint.QdiscRestored), "revert")
					d.revert(record)
					d.clean(before)
				}
			}
			// A process that dies without a step more.
			record := d.record()
			o := env.Start(t, env.Cgroup(t), nil, "fault", d.args(record)...)
			(&other{Process: o, t: t}).steps(begun...)
			d.has(tr.root)
			o.Kill()
			d.revert(record)
			d.clean(before)
			if deaths[failpoint.QdiscRecorded] == 0 || deaths[failpoint.QdiscReplaced] == 0 || deaths[failpoint.QdiscRestored] == 0 {
				t.Errorf("deaths %v", deaths)
			}
			t.Logf("%v", deaths)
		})
	}
}

// What is left of a dead process is found by its mark alone, and what belongs
// to a live one is not.
func TestRemnantsAreFoundWithoutAJournal(t *testing.T) {
	eachHook(t, func(t *testing.T, hook string) {
		for _, tr := range []tree{trees[0], {name: "explicit", device: "eth0", root: fqExplicit, commands: []string{"tc qdisc add dev DEV root handle 5: fq_codel"}}} {
			t.Run(tr.name, func(t *testing.T) {
				d := tr.make(t, hook)
				before := d.dump()
				o := d.other()
				o.steps(begun...)
				if list := d.remnants(); len(list) > 0 {
					t.Errorf("what a live process uses is taken for a remnant: %v", list)
				}
				o.steps("lease 0s")
				if list := d.remnants(); len(list) > 0 {
					t.Errorf("what a live process uses is taken for a remnant: %v", list)
				}
				o.Kill()
				list := d.remnants()
				if len(list) != 1 {
					t.Fatalf("found %v", list)
				}
				d.has(tr.root)
				// A filter is left and knows what was before; a link is not.
				known := tr.root == fqDefault || hook == "cls_bpf"
				if text := list[0].Describe(); strings.Contains(text, "not known") == known {
					t.Error(text)
				}
				for range 2 {
					if err := list[0].Undo(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if hook == "cls_bpf" {
					d.run("tc qdisc del dev DEV clsact")
				}
				if known {
					d.unchanged(before)
				} else {
					d.has("noqueue 0:")
				}
				if list := d.remnants(); len(list) > 0 {
					t.Errorf("found after the undo: %v", list)
				}
			})
		}
	})
}

// remnants are those of the device.
func (d *device) remnants() (list []qdisc.Root) {
	d.t.Helper()
	all, err := qdisc.Remnants()
	if err != nil {
		d.t.Error(err)
	}
	for _, undo := range all {
		if root := undo.(qdisc.Root); root.NetNS == d.ns.Inode && root.Index == d.index {
			list = append(list, root)
		}
	}
	return list
}
