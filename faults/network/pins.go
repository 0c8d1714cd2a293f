package network

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/faults/fault"
)

// Names of pins. The undo goes by their order: the cgroup's links, which mark,
// end before those of the interfaces, which lose what is marked.
const (
	pinLinkCgroup = "link_cgroup_"
	pinLinkTCX    = "link_tcx_"
	pinMap        = "map_"
	pinHookMap    = "map_hook_"
	pinProgram    = "prog_"
)

// rodata is the map of a program's configuration.
const rodata = ".rodata"

// pinObjects pins the maps and the programs.
func (in *injection) pinObjects() error {
	for name, m := range in.pinnedMaps() {
		if err := in.pins.Pin(name, m); err != nil {
			return err
		}
	}
	for name, program := range in.programs {
		if err := in.pins.Pin(pinProgram+name, program); err != nil {
			return err
		}
	}
	return nil
}

// pinnedMaps are the maps by the names of their pins.
func (in *injection) pinnedMaps() map[string]*ebpf.Map {
	pins := map[string]*ebpf.Map{}
	for prefix, maps := range map[string]map[string]*ebpf.Map{pinMap: in.maps, pinHookMap: in.hookMaps} {
		for name, m := range maps {
			pins[mapPin(prefix, name)] = m
		}
	}
	return pins
}

// mapPin leaves out the dot of a section's name.
func mapPin(prefix, name string) string { return prefix + strings.TrimPrefix(name, ".") }

func (h cgroupHook) pin(cgroup fault.Cgroup) string {
	return fmt.Sprintf("%s%d_%s", pinLinkCgroup, cgroup.ID, h.direction)
}

// tcxPin says which interface the link is for. The name is in hexadecimal, as
// an interface's may have dots in it; the end makes it unique where the index
// comes back.
func tcxPin(i iface) string {
	return fmt.Sprintf("%s%d_%d_%s_%s", pinLinkTCX, i.namespace.Inode, i.index, hex.EncodeToString([]byte(i.name)), randomHex())
}

// parseTCXPin undoes tcxPin.
func parseTCXPin(name string) (w interfaceWatch, err error) {
	fields := strings.Split(strings.TrimPrefix(name, pinLinkTCX), "_")
	if len(fields) != 4 {
		return w, fmt.Errorf("pin %s is not of this version", name)
	}
	if w.netns, err = strconv.ParseUint(fields[0], 10, 64); err != nil {
		return w, fmt.Errorf("pin %s: %w", name, err)
	}
	if w.index, err = strconv.Atoi(fields[1]); err != nil {
		return w, fmt.Errorf("pin %s: %w", name, err)
	}
	text, err := hex.DecodeString(fields[2])
	if err != nil {
		return w, fmt.Errorf("pin %s: %w", name, err)
	}
	w.name = string(text)
	return w, nil
}
