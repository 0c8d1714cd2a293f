package faults

import (
	"context"
	"errors"

	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/faults/pin"
)

// Remnants finds what is left of faults by its mark alone, without any journal:
// directories of pins, cls_bpf filters and clsacts. What a live process owns is
// not among them; what nobody owns is, also while its lease runs. The undos
// are to be run in their order. What was found is returned beside an error.
func Remnants(ctx context.Context) ([]fault.Undo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pins, err := pin.Remnants()
	filters, filtersErr := network.Remnants()
	return append(pins, filters...), errors.Join(err, filtersErr)
}
