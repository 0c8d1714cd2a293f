package ifb

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/netns"
)

const (
	// drainSlack is how long packets are waited for beyond the longest delay.
	drainSlack = 2 * time.Second
	drainPoll  = 2 * time.Millisecond
)

// Undo takes away a device and the filters that lead packets to it, and each
// clsact of ours that nobody uses any more. The kernel keeps all of these when
// the process that made them ends.
type Undo struct {
	// NetNS is the inode of the network namespace.
	NetNS uint64 `json:"netns"`
	// Name is the device's, and unique.
	Name string `json:"name"`
	// Longest is the longest delay in nanoseconds: a packet that came in just
	// now is waited for that long.
	Longest time.Duration `json:"longest"`
}

// Kind is the name of Undo in the journal.
const Kind = "ifb"

// Kind implements fault.Undo.
func (Undo) Kind() string { return Kind }

// Describe implements fault.Undo.
func (u Undo) Describe() string {
	return fmt.Sprintf("remove interface %s from netns %d, after the filters that lead packets to it", u.Name, u.NetNS)
}

// Survives implements fault.Undo.
func (Undo) Survives() bool { return false }

// Undo implements fault.Undo. The filters go first, then packets that wait in
// the device have time to go on, as long as the context lasts. A device that is
// gone, with its namespace or without, is no error.
func (u Undo) Undo(ctx context.Context) error {
	ns, err := netns.Find(u.NetNS)
	if err != nil || ns == nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	h, err := ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := ns.Exclusively(func() error { return u.unsteer(ns, h) }); err != nil {
		return err
	}
	failpoint.Hit(failpoint.Unsteered)
	link, err := h.LinkByName(u.Name)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for interface %s in %s: %w", u.Name, ns, err)
	}
	if !isOurs(link) {
		return nil // somebody else's by now
	}
	if err := u.drain(ctx, h, link); err != nil {
		return err
	}
	if err := h.LinkDel(link); err != nil && !gone(err) {
		return fmt.Errorf("removing interface %s from %s: %w", u.Name, ns, err)
	}
	return nil
}

// unsteer removes the filters everywhere. Without its device a filter would drop what it
// redirects.
func (u Undo) unsteer(ns *netns.Namespace, h *netlink.Handle) error {
	clsacts, err := clsact.List(ns)
	if err != nil {
		return err
	}
	var errs []error
	for _, index := range slices.Sorted(maps.Keys(clsacts)) {
		link, err := h.LinkByIndex(index)
		if err == nil {
			err = unsteer(ns, h, link, u.Name)
		}
		if err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// drain waits until the device is empty, but no longer than a packet can be
// held. Those that are left then are lost with the device.
func (u Undo) drain(ctx context.Context, h *netlink.Handle, link netlink.Link) error {
	limit := time.NewTimer(u.Longest + drainSlack)
	defer limit.Stop()
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		stats, within, err := traffic(h, link)
		if gone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if stats.Waiting == 0 && within == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-limit.C:
			return nil
		case <-poll.C:
		}
	}
}

// watch tells whether the device is there. It does not hold the namespace: it
// must not keep it from ending.
type watch struct {
	netns uint64
	name  string
}

func (w watch) Key() string { return fmt.Sprintf("interface %s in netns %d", w.name, w.netns) }

func (w watch) State() ([]string, error) {
	ns, err := netns.Find(w.netns)
	if err != nil {
		return nil, err
	}
	if ns == nil {
		return nil, fault.ErrGone
	}
	defer func() { _ = ns.Close() }()
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	link, err := h.LinkByName(w.name)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", w.Key(), err)
	}
	return []string{fmt.Sprintf("%s %s, index %d", link.Type(), w.name, link.Attrs().Index)}, nil
}

func (w watch) Differences(before, after []string) []string {
	return fault.Compare(before, after, func(string) bool { return true })
}
