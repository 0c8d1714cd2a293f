package faults

import (
	"encoding/json"
	"fmt"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
)

// DecodeUndo makes an undo of its kind and of the JSON that a journal holds.
// A kind that this version does not know is an error: a newer one wrote it.
func DecodeUndo(kind string, data []byte) (fault.Undo, error) {
	switch kind {
	case network.TCFilterKind:
		return decode[network.TCFilter](kind, data)
	default:
		return nil, fmt.Errorf("undo record of kind %q is unknown to this version: revert with the version that wrote it", kind)
	}
}

func decode[U fault.Undo](kind string, data []byte) (fault.Undo, error) {
	var undo U
	if err := json.Unmarshal(data, &undo); err != nil {
		return nil, fmt.Errorf("decoding undo record of kind %q: %w", kind, err)
	}
	return undo, nil
}
