// Package ifb delays packets that come in. It makes an ifb device of its own in
// a network namespace, with fq at its root, and leads packets there that a
// program chooses at the ingress of interfaces; when fq lets them go, they are
// received at the interface by which they came. docs/design/inbound.md says
// what that does to a packet.
package ifb

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"faultline.dev/faultline/faults/clsact"
	"faultline.dev/faultline/faults/failpoint"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/kernel"
	"faultline.dev/faultline/faults/netns"
)

// ErrNoModule says that the kernel has no ifb yet. A kernel that loads the
// module by itself makes ifb0 and ifb1 in the host's namespace with it.
var ErrNoModule = errors.New("the module ifb is not loaded: modprobe ifb numifbs=0")

const (
	namePrefix = "fl"
	nameDigits = 10
	// stampFilter is the name of the filter on the device itself.
	stampFilter = "faultline"
	// withoutIPv6 is too small an MTU for IPv6 (IPV6_MIN_MTU), which else gives
	// the device an address and sends from it. What is redirected is not
	// measured by it.
	withoutIPv6 = 1279
	// wholePackets is fq's quantum in bytes, by default twice the MTU. A flow
	// may send so many before the next one's turn: here two of the largest.
	wholePackets = 2 * 65536
	// txQueueLen is how many packets may wait between fq and the receive path,
	// in which they spend microseconds; 32 by default.
	txQueueLen = 1000
	// minHorizon is fq's own default.
	minHorizon = 10 * time.Second
	maxHorizon = time.Duration(1<<32-1) * time.Microsecond
)

// LongestDelay is the longest that a packet can wait in a device.
const LongestDelay = maxHorizon / 2

// hardwareAddr is the address of each device of ours, "FLTIFB": unicast, and of
// those that everybody may use (IEEE 802, locally administered). It is the mark
// that is there in the very request which makes the device; an alias the kernel
// takes only afterwards. Nobody answers to it.
var hardwareAddr = net.HardwareAddr("FLTIFB")

// Options are what a device is made for.
type Options struct {
	// Alias is shown by ip-link(8), at most 255 bytes; "" for none.
	Alias string
	// Longest is the longest delay, at most LongestDelay.
	Longest time.Duration
	// Packets that can wait at a time; beyond that they are lost.
	Packets uint32
	// Stamp is fl_in_stamp, or fl_in_stamp_bare, of bpf/inbound. As long as the
	// process has it open the device is not taken for a remnant.
	Stamp *ebpf.Program
}

// Device is an ifb device of ours in one network namespace.
type Device struct {
	// Name and Index are the interface's.
	Name  string
	Index int

	ns     *netns.Namespace
	undone fault.Undone
}

// Create makes the device, behind a journal record, and sets it up. The
// namespace must stay open as long as the device is used. On an error nothing
// is left.
func Create(ctx context.Context, ns *netns.Namespace, o Options, rec fault.Recorder) (*Device, error) {
	if o.Longest > LongestDelay {
		return nil, fmt.Errorf("a delay of %s is more than %s, which fq allows", o.Longest, LongestDelay)
	}
	if there, err := kernel.HasIFB(); err != nil {
		return nil, fmt.Errorf("looking for ifb: %w", err)
	} else if !there {
		return nil, ErrNoModule
	}
	undo := Undo{NetNS: ns.Inode, Name: randomName(), Longest: o.Longest}
	if err := rec.Watch(watch{ns.Inode, undo.Name}); err != nil {
		return nil, err
	}
	undone, err := rec.Record(undo)
	if err != nil {
		return nil, err
	}
	d := &Device{Name: undo.Name, ns: ns, undone: undone}
	// Whoever looks for remnants must not see half of it.
	if err := ns.Exclusively(func() error { return d.make(o) }); err != nil {
		return nil, errors.Join(fmt.Errorf("making interface %s in %s: %w", d.Name, ns, err), undone.Undo(ctx))
	}
	return d, nil
}

func (d *Device) make(o Options) error {
	h, err := d.ns.Handle()
	if err != nil {
		return err
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = d.Name, hardwareAddr
	attrs.MTU, attrs.TxQLen = withoutIPv6, txQueueLen
	if err := h.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return err
	}
	link, err := h.LinkByName(d.Name)
	if err != nil {
		return err
	}
	d.Index = link.Attrs().Index
	failpoint.Hit(failpoint.IFBMade)
	if o.Alias != "" {
		if err := h.LinkSetAlias(link, o.Alias); err != nil {
			return fmt.Errorf("setting its alias: %w", err)
		}
	}
	if err := h.QdiscAdd(queue(d.Index, o)); err != nil {
		return fmt.Errorf("adding qdisc fq: %w", err)
	}
	if err := clsact.EnsureUnmarked(d.ns, d.Index); err != nil {
		return err
	}
	err = clsact.Add(d.ns, clsact.Filter{
		Index: d.Index, Side: clsact.Egress, Name: stampFilter, Priority: 1, Program: o.Stamp,
	})
	if err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

// queue is an fq that holds packets until their time and does nothing else.
func queue(index int, o Options) netlink.Qdisc {
	fq := netlink.NewFq(netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT,
	})
	// Twice: a packet that is stamped while the machine is slow is still within.
	horizon := min(max(minHorizon, 2*o.Longest), maxHorizon)
	fq.PacketLimit, fq.FlowPacketLimit = o.Packets, o.Packets
	fq.Pacing = 0
	fq.Quantum, fq.InitialQuantum = wholePackets, wholePackets
	fq.Horizon = uint32(horizon / time.Microsecond)
	return fq
}

// Revert takes the device and all its filters away, after the packets that
// wait in it have gone on. It may be called again.
func (d *Device) Revert(ctx context.Context) error { return d.undone.Undo(ctx) }

// Adopt takes over the device of an earlier process, by its record. It is nil
// where the device is no more. With another program than stamp on it, it is an
// error.
func Adopt(ns *netns.Namespace, stamp *ebpf.Program, record Undo, undone fault.Undone) (*Device, error) {
	h, err := ns.Handle()
	if err != nil {
		return nil, err
	}
	defer h.Close()
	link, err := h.LinkByName(record.Name)
	if gone(err) || err == nil && !isOurs(link) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking for interface %s in %s: %w", record.Name, ns, err)
	}
	filters, err := clsact.Filters(h, link, clsact.Egress)
	if err != nil {
		return nil, err
	}
	d := &Device{Name: record.Name, Index: link.Attrs().Index, ns: ns, undone: undone}
	found, err := clsact.Find(filters, stampFilter, stamp)
	if err == nil && !found {
		err = errors.New("it has no filter")
	}
	if err != nil {
		return nil, fmt.Errorf("adopting interface %s in %s: %w", d.Name, ns, err)
	}
	return d, nil
}

func randomName() string {
	var b [nameDigits / 2]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return namePrefix + hex.EncodeToString(b[:])
}

// isOurs tells a device of ours: what it is and is called, and its mark.
func isOurs(link netlink.Link) bool {
	attrs := link.Attrs()
	return link.Type() == "ifb" && isName(attrs.Name) && bytes.Equal(attrs.HardwareAddr, hardwareAddr)
}

func isName(name string) bool {
	digits, found := strings.CutPrefix(name, namePrefix)
	_, err := hex.DecodeString(digits)
	return found && len(digits) == nameDigits && err == nil
}

// gone tells whether an error of netlink says that the interface is no more.
func gone(err error) bool {
	return errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV)
}
