package network

import (
	"sync"

	"github.com/cilium/ebpf"

	"faultline.dev/faultline/bpf/cgroupskb"
	"faultline.dev/faultline/bpf/inbound"
	"faultline.dev/faultline/bpf/tc"
)

// The compiled programs, parsed when they are first needed: that takes longer
// than to load them into the kernel.
var (
	cgroupPrograms  = sync.OnceValues(cgroupskb.LoadObjects)
	hookPrograms    = sync.OnceValues(tc.LoadObjects)
	inboundPrograms = sync.OnceValues(inbound.LoadObjects)
)

// compiled returns a copy of programs, to configure and load.
func compiled(programs func() (*ebpf.CollectionSpec, error)) (*ebpf.CollectionSpec, error) {
	spec, err := programs()
	if err != nil {
		return nil, err
	}
	return spec.Copy(), nil
}
