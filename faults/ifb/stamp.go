package ifb

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"

	"faultline.dev/faultline/bpf/inbound"
)

// Stamping names the programs of bpf/inbound that stamp packets on this kernel:
// the one for Options.Stamp and, before Linux 5.18, another one for the ingress
// of the target's cgroups, which takes the stamp away again ("" otherwise).
func Stamping() (stamp, unstamp string, err error) {
	err = features.HaveProgramHelper(ebpf.SchedCLS, asm.FnSkbSetTstamp)
	switch {
	case err == nil:
		return inbound.ObjectsProgFlInStamp, "", nil
	case errors.Is(err, ebpf.ErrNotSupported):
		return inbound.ObjectsProgFlInStampBare, inbound.ObjectsProgFlInUnstamp, nil
	default:
		return "", "", fmt.Errorf("probing for bpf_skb_set_tstamp: %w", err)
	}
}
