//go:build linux && privileged

package network_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

// receivedDamaged flips a bit in some of the packets that the target receives at the ports 7000
// to 7009.
func receivedDamaged(percent float64, checksum v1.NetworkCorrupt_Checksum) *v1.Fault {
	spec := damaged(percent, checksum)
	spec.Filter = &v1.Filter{Direction: v1.Filter_INGRESS, LocalPorts: []string{"7000-7009"}}
	return spec
}

// Of the packets that the target receives those are damaged that the seed says,
// and in the bit that it says: it gets them when the checksum is right, and its
// kernel drops and counts them when it is wrong.
func TestReceivedDamageIsThatOfTheSeed(t *testing.T) {
	const rounds = 8
	// Fragments are not hit.
	whole := sizes[:slices.Index(sizes, 1472)]
	for _, checksum := range checksums {
		t.Run(checksum.String(), func(t *testing.T) {
			f := newFixture(t, network.Corrupt(), "ifb")
			between := func(from, to *env.Namespace, receiver fault.Cgroup, address string) env.ContentPair {
				return env.NewContentPair(t, from, to, f.neighbour, receiver, address, rounds*len(whole), whole...)
			}
			a, b := f.network.A, f.network.B
			other := between(a, b, f.neighbour, env.AddressB+":7003")
			routes := []struct {
				name string
				pair env.ContentPair
			}{
				{"IPv4", between(a, b, f.target, env.AddressB+":7000")},
				{"IPv6", between(a, b, f.target, "["+env.Address6B+"]:7001")},
				{"loopback", between(b, b, f.target, "127.0.0.1:7002")},
				// The sender makes the checksums of these.
				{"IPv4 without offload", between(a, b, f.target, env.AddressB+":7005")},
				{"IPv6 without offload", between(a, b, f.target, "["+env.Address6B+"]:7006")},
			}
			tc := f.tcState()
			spec := receivedDamaged(30, checksum)
			injection := f.inject(network.Corrupt(), spec)
			if _, came := other.Exchange(); !equal(came, other.Sent()) {
				t.Error("the neighbour's packets are not as they were sent")
			}
			seed := newDamage(spec)
			for i, r := range routes {
				if i == 3 {
					a.NoChecksumOffload()
				}
				before := countSumErrors(b)
				want, hits := seed.of(r.pair.Sent(), checksum)
				_, came := r.pair.Exchange()
				compare(t, r.name, came, want)
				if checksum == v1.NetworkCorrupt_RIGHT {
					hits = 0
				}
				if errors := countSumErrors(b) - before; errors != hits {
					t.Errorf("%s: %d packets with a wrong checksum, want %d", r.name, errors, hits)
				}
			}
			injection.End()
			f.counted(injection, fault.Counters{Matched: seed.matched, Injected: seed.injected})
			f.unchanged(tc)
		})
	}
}

// A stream comes through whole where the checksum gives the damage away, with as
// many wrong bits as packets were hit where it does not, also when they come in as
// large segments (TSO, GRO), of which a wrong checksum takes the first part away.
func TestReceivedStreamIsDamagedOrSentAgain(t *testing.T) {
	const size = 2 << 20
	for _, checksum := range checksums {
		t.Run(checksum.String(), func(t *testing.T) {
			f := newFixture(t, network.Corrupt(), "ifb")
			for _, address := range []string{env.AddressB + ":7000", "[" + env.Address6B + "]:7001"} {
				// Few packets, and large ones.
				offload, percent := address == env.AddressB+":7000", 20.
				if !offload {
					// The receiver looks at the checksum of each.
					f.network.A.NoChecksumOffload()
					percent = 5
				}
				injection, errors := f.streamFrom(f.neighbour, f.target, address, size, receivedDamaged(percent, checksum))
				counters := injection.Count()
				hits := int(counters.Injected)
				t.Logf("%s: counted %+v, %+v", address, counters, errors)
				if hits == 0 || counters.Missed > 0 {
					t.Errorf("%s: the kernel counted %+v", address, counters)
				}
				switch {
				case checksum == v1.NetworkCorrupt_RIGHT:
					if !errors.are(damages{flipped: hits}) {
						t.Errorf("%s: %+v, want %d bits flipped", address, errors, hits)
					}
				case offload:
					// What is missing was sent again: a part of each, and not all
					// of the 30 to 45.
					if errors.sumErrors > hits || errors.flipped > 0 || errors.again < hits/2 || errors.again > 20*hits {
						t.Errorf("%s: %+v of %d that were hit", address, errors, hits)
					}
				case !errors.are(damages{sumErrors: hits}):
					t.Errorf("%s: %+v, want %d wrong checksums", address, errors, hits)
				}
			}
		})
	}
}

// Damaged packets wait and come twice as whole ones do, damaged both times.
func TestReceivedDamageOfWhatIsHeldAndDoubled(t *testing.T) {
	const rounds = 8
	f := newFixture(t, network.Corrupt(), "ifb")
	whole := sizes[:slices.Index(sizes, 1472)]
	pair := env.NewContentPair(t, f.network.A, f.network.B, f.neighbour, f.target, env.AddressB+":7000", rounds*len(whole), whole...)
	tc := f.tcState()
	f.run = &fault.Commons{}
	doubling := receiving(twice(100, 0))
	double := f.inject(network.Duplicate(), doubling)
	spec := receivedDamaged(30, v1.NetworkCorrupt_RIGHT)
	injection := f.inject(network.Corrupt(), spec)
	seed := newDamage(spec)
	want, _ := seed.of(pair.Sent(), v1.NetworkCorrupt_RIGHT)
	_, came := pair.Exchange()
	compare(t, "RIGHT", came, doubled(want))
	injection.End()
	double.End()
	f.counted(injection, fault.Counters{Matched: seed.matched, Injected: seed.injected})
	f.unchanged(tc)
}

// What a device says of the checksums that it has looked at, or has not
// (linux/virtio_net.h), with frames that Ethernet fills up.
func TestReceivedDamageIsNotHiddenByTheDevice(t *testing.T) {
	const port = 7000
	lengths := []int{1, 2, 17, 18, 19, 100, 1001}
	for _, checksum := range checksums {
		t.Run(checksum.String(), func(t *testing.T) {
			f := newFixture(t, network.Corrupt(), "ifb")
			tap := newTap(t, f.network.B)
			receiver := env.Start(t, f.target, f.network.B, "content-receive", fmt.Sprintf("%s:%d", tap.local, port))
			var ready string
			receiver.Read(&ready)
			injection := f.inject(network.Corrupt(), receivedDamaged(100, checksum))
			hits := uint64(0)
			for _, device := range []struct {
				says    string
				flags   byte
				partial bool
			}{
				{"not looked at", 0, false},
				{"found right", unix.VIRTIO_NET_HDR_F_DATA_VALID, false},
				{"to be filled in", unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, true},
			} {
				before := countSumErrors(f.network.B)
				var want, came [][]byte
				for i, length := range lengths {
					content := env.Content(i, length)
					tap.write(device.flags, device.partial, port, content)
					if checksum == v1.NetworkCorrupt_RIGHT {
						bit := dice.Bit(seed, hits, length)
						content[bit/8] ^= 1 << (bit % 8)
						want = append(want, content)
					}
					hits++
				}
				receiver.Tell("250ms")
				receiver.Read(&came)
				compare(t, device.says, came, want)
				if errors, wanted := countSumErrors(f.network.B)-before, len(lengths)-len(want); errors != wanted {
					t.Errorf("%s: %d packets with a wrong checksum, want %d", device.says, errors, wanted)
				}
			}
			injection.End()
			f.counted(injection, fault.Counters{Matched: hits, Injected: hits})
		})
	}
}

// tap is an Ethernet device whose other end is this process.
type tap struct {
	t             *testing.T
	device        *os.File
	hardware      net.HardwareAddr
	local, remote netip.Addr
}

func newTap(t *testing.T, ns *env.Namespace) *tap {
	t.Helper()
	p := &tap{t: t, local: netip.MustParseAddr("10.98.0.1"), remote: netip.MustParseAddr("10.98.0.2")}
	ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "fltap0"
		link := &netlink.Tuntap{
			LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, NonPersist: true, Queues: 1,
			Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR,
		}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("making a tap device: %w", err)
		}
		p.device = link.Fds[0]
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.local.AsSlice(), Mask: net.CIDRMask(24, 32)}}); err != nil {
			return err
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		made, err := netlink.LinkByName(attrs.Name)
		if err != nil {
			return err
		}
		p.hardware = made.Attrs().HardwareAddr
		return nil
	})
	t.Cleanup(func() { _ = p.device.Close() })
	return p
}

// write lets a datagram come in. partial: it has the sum of its pseudo-header
// alone, and the kernel is told where the rest belongs.
func (p *tap) write(flags byte, partial bool, port uint16, content []byte) {
	p.t.Helper()
	const ethernet, ip, udp, least = 14, 20, 8, 60
	frame := make([]byte, max(ethernet+ip+udp+len(content), least))
	copy(frame, p.hardware)
	copy(frame[6:], net.HardwareAddr{2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)

	packet := frame[ethernet:][:ip+udp+len(content)]
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
	copy(packet[12:], p.remote.AsSlice())
	copy(packet[16:], p.local.AsSlice())
	binary.BigEndian.PutUint16(packet[10:], ^sum(packet[:ip]))

	datagram := packet[ip:]
	binary.BigEndian.PutUint16(datagram, 9)
	binary.BigEndian.PutUint16(datagram[2:], port)
	binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
	copy(datagram[udp:], content)
	pseudo := binary.BigEndian.AppendUint16(slices.Concat(packet[12:20], []byte{0, unix.IPPROTO_UDP}), uint16(len(datagram)))
	check := sum(pseudo)
	if !partial {
		check = ^sum(slices.Concat(pseudo, datagram))
	}
	binary.BigEndian.PutUint16(datagram[6:], check)

	// struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
	header := make([]byte, 10)
	header[0] = flags
	if partial {
		binary.NativeEndian.PutUint16(header[6:], ethernet+ip)
		binary.NativeEndian.PutUint16(header[8:], 6)
	}
	if _, err := p.device.Write(append(header, frame...)); err != nil {
		p.t.Fatal(err)
	}
}

// sum is that of RFC 1071, not inverted.
func sum(data []byte) uint16 {
	var sum uint32
	for i, b := range data {
		sum += uint32(b) << (8 * (1 - i%2))
	}
	sum = sum>>16 + sum&0xffff
	return uint16(sum>>16 + sum)
}
