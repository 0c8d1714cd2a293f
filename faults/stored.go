package faults

import (
	"encoding/json"
	"fmt"

	"faultline.dev/faultline/faults/cgroupfile"
	"faultline.dev/faultline/faults/dns"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/ifb"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/faults/pin"
	"faultline.dev/faultline/faults/qdisc"
	"faultline.dev/faultline/faults/syscall"
)

// DecodeUndo makes an undo of its kind and of the JSON that a journal holds.
// A kind that this version does not know is an error: a newer one wrote it.
func DecodeUndo(kind string, data []byte) (fault.Undo, error) {
	switch kind {
	case network.TCFilterKind:
		return decode[network.TCFilter](kind, data)
	case ifb.Kind:
		return decode[ifb.Undo](kind, data)
	case qdisc.RootKind:
		return decode[qdisc.Root](kind, data)
	case pin.Kind:
		return decode[pin.Directory](kind, data)
	case cgroupfile.SettingKind:
		return decode[cgroupfile.Setting](kind, data)
	default:
		return nil, fmt.Errorf("undo record of kind %q is unknown to this version: revert with the version that wrote it", kind)
	}
}

// DecodeClaim makes a claim of its kind and of the JSON that a run published.
// Its errors are those of DecodeUndo.
func DecodeClaim(kind string, data []byte) (fault.Claim, error) {
	switch kind {
	case network.PacketsKind:
		return decode[network.Packets](kind, data)
	case syscall.CallsKind:
		return decode[syscall.Calls](kind, data)
	case dns.QueriesKind:
		return decode[dns.Queries](kind, data)
	case cgroupfile.FilesKind:
		return decode[cgroupfile.Files](kind, data)
	default:
		return nil, fmt.Errorf("claim of kind %q is unknown to this version: wait for the end of the run that published it", kind)
	}
}

func decode[T any](kind string, data []byte) (T, error) {
	var value T
	if err := json.Unmarshal(data, &value); err != nil {
		return value, fmt.Errorf("decoding %s: %w", kind, err)
	}
	return value, nil
}
