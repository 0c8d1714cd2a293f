//go:build linux && privileged

package network_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
	"faultline.dev/faultline/faults/network"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	env.Main(m, map[string]env.Workload{
		"udp-send":    udpSend,
		"udp-receive": udpReceive,
	})
}

const packets = 10000

// sent is what a sender saw.
type sent struct {
	Errors int
	First  string
}

// udpSend sends numbered datagrams to args[0] when it is told to.
func udpSend(in io.Reader, out *json.Encoder, args []string) error {
	connection, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	var line string
	for {
		if _, err := fmt.Fscanln(in, &line); err != nil {
			return nil
		}
		var result sent
		for i := range count {
			if _, err := fmt.Fprint(connection, i); err != nil {
				result.Errors++
				result.First = err.Error()
			}
			// A receiver in emulation is no faster than the sender.
			if i%50 == 49 {
				time.Sleep(time.Millisecond)
			}
		}
		if err := out.Encode(result); err != nil {
			return err
		}
	}
}

// udpReceive prints the numbers that came, at each line that it reads.
func udpReceive(in io.Reader, out *json.Encoder, args []string) error {
	address, err := net.ResolveUDPAddr("udp", args[0])
	if err != nil {
		return err
	}
	connection, err := net.ListenUDP("udp", address)
	if err != nil {
		return err
	}
	if err := connection.SetReadBuffer(64 << 20); err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	var line string
	for {
		if _, err := fmt.Fscanln(in, &line); err != nil {
			return nil
		}
		received := []int{}
		buffer := make([]byte, 64)
		for {
			// The sender has ended: what is not here now was lost.
			if err := connection.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
				return err
			}
			n, err := connection.Read(buffer)
			if err != nil {
				break
			}
			number, err := strconv.Atoi(string(buffer[:n]))
			if err != nil {
				return err
			}
			received = append(received, number)
		}
		if err := out.Encode(received); err != nil {
			return err
		}
	}
}

// udpPair is a sender in A and a receiver in B.
type udpPair struct{ sender, receiver *env.Process }

func newUDPPair(t *testing.T, f *fixture, address string) udpPair {
	t.Helper()
	var ready string
	receiver := env.Start(t, f.neighbour, f.network.B, "udp-receive", address)
	receiver.Read(&ready)
	sender := env.Start(t, f.target, f.network.A, "udp-send", address, strconv.Itoa(packets))
	sender.Read(&ready)
	return udpPair{sender, receiver}
}

// exchange sends all datagrams and returns the sender's view and the numbers
// that were lost.
func (p udpPair) exchange() (result sent, lost []int) {
	p.sender.Tell("go")
	p.sender.Read(&result)
	p.receiver.Tell("report")
	var received []int
	p.receiver.Read(&received)
	slices.Sort(received)
	for i := range packets {
		if _, found := slices.BinarySearch(received, i); !found {
			lost = append(lost, i)
		}
	}
	return result, lost
}

func TestLossOnEgressIsExactAndSilent(t *testing.T) {
	for _, address := range []string{env.AddressB + ":7000", "[" + env.Address6B + "]:7000"} {
		for _, mechanism := range []string{"tcx", "cls_bpf"} {
			t.Run(mechanism+" "+address, func(t *testing.T) {
				f := newFixture(t)
				f.needs(network.Loss(), mechanism)
				pair := newUDPPair(t, f, address)
				if result, lost := pair.exchange(); result.Errors != 0 || len(lost) != 0 {
					t.Fatalf("without a fault: %d errors, %d lost", result.Errors, len(lost))
				}
				spec := &v1.Fault{
					Mechanism: mechanism,
					Filter:    &v1.Filter{Ports: []string{"7000"}, Protocol: v1.Filter_UDP},
					Fault:     &v1.Fault_NetworkLoss{NetworkLoss: &v1.NetworkLoss{Percent: 30}},
				}
				first := f.lossOf(pair, network.Loss(), spec)
				second := f.lossOf(pair, network.Loss(), spec)
				if !slices.Equal(first, second) {
					t.Errorf("the same seed lost other packets: %d and %d", len(first), len(second))
				}
				config := dice.New(seed, spec)
				config.Lose(spec.GetNetworkLoss())
				if want := predicted(config); !slices.Equal(first, want) {
					t.Errorf("lost %d packets, the seed says %d others", len(first), len(want))
				}
				if result, lost := pair.exchange(); result.Errors != 0 || len(lost) != 0 {
					t.Errorf("after the revert: %d errors, %d lost", result.Errors, len(lost))
				}
			})
		}
	}
}

// lossOf injects, sends, and compares what was lost with the counters.
func (f *fixture) lossOf(pair udpPair, kind kindOf, spec *v1.Fault) []int {
	f.t.Helper()
	injection := f.inject(kind, spec)
	result, lost := pair.exchange()
	if result.Errors != 0 {
		f.t.Errorf("%d of the sends failed: %s", result.Errors, result.First)
	}
	f.revert(injection)
	counters, err := injection.Counters()
	if err != nil {
		f.t.Fatal(err)
	}
	if counters.Matched != packets || counters.Injected != uint64(len(lost)) || counters.Missed != 0 {
		f.t.Errorf("receiver lost %d of %d, the kernel counted %+v", len(lost), packets, counters)
	}
	return lost
}

func predicted(config dice.Config) (lost []int) {
	sequence := dice.NewSequence(config)
	for i := range packets {
		if sequence.Next() {
			lost = append(lost, i)
		}
	}
	return lost
}
