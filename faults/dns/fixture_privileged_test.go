//go:build linux && privileged

package dns_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dns"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

func TestMain(m *testing.M) {
	env.Main(m, map[string]env.Workload{"ask": ask})
}

// patience is how long an answer is waited for.
const patience = 3 * time.Second

// response is what a question got.
type response struct {
	// Code is the server's word, "" without an answer.
	Code string
	// Addresses are sorted.
	Addresses []string
	// From is where the answer came from.
	From string
}

// ask asks name servers. A line says how, whom and what: "udp 127.0.0.2:53 A db.example.com".
// udp is a connected socket, sendto one that is not; tcp a connection for one question.
func ask(in io.Reader, out *json.Encoder, _ []string) error {
	return env.Serve(in, out, func(words []string) (any, error) {
		kinds := map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "TXT": dnsmessage.TypeTXT}
		name, err := dnsmessage.NewName(words[3] + ".")
		if err != nil {
			return nil, err
		}
		query := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: name, Type: kinds[words[2]], Class: dnsmessage.ClassINET}},
		}
		packed, err := query.Pack()
		if err != nil {
			return nil, err
		}
		answer, from, err := exchange(words[0], words[1], packed)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return response{}, nil
		}
		if err != nil {
			return nil, err
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer); err != nil {
			return nil, err
		}
		if m.ID != query.ID || len(m.Questions) != 1 || m.Questions[0] != query.Questions[0] {
			return nil, fmt.Errorf("the answer %v is not to the question %v", m, query)
		}
		got := response{Code: m.RCode.String(), From: from}
		for _, record := range m.Answers {
			switch body := record.Body.(type) {
			case *dnsmessage.AResource:
				got.Addresses = append(got.Addresses, netip.AddrFrom4(body.A).String())
			case *dnsmessage.AAAAResource:
				got.Addresses = append(got.Addresses, netip.AddrFrom16(body.AAAA).String())
			}
		}
		slices.Sort(got.Addresses)
		return got, nil
	})
}

func exchange(how, server string, query []byte) (answer []byte, from string, err error) {
	buffer := make([]byte, 4096)
	if how == "sendto" {
		address, err := net.ResolveUDPAddr("udp", server)
		if err != nil {
			return nil, "", err
		}
		socket, err := net.ListenUDP("udp", nil)
		if err != nil {
			return nil, "", err
		}
		defer func() { _ = socket.Close() }()
		if _, err := socket.WriteToUDP(query, address); err != nil {
			return nil, "", err
		}
		_ = socket.SetReadDeadline(time.Now().Add(patience))
		n, peer, err := socket.ReadFromUDPAddrPort(buffer)
		return buffer[:n], netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port()).String(), err
	}
	connection, err := net.Dial(how, server)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = connection.Close() }()
	_ = connection.SetReadDeadline(time.Now().Add(patience))
	if how == "udp" {
		if _, err := connection.Write(query); err != nil {
			return nil, "", err
		}
		n, err := connection.Read(buffer)
		return buffer[:n], connection.RemoteAddr().String(), err
	}
	if _, err := connection.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, "", err
	}
	if _, err := io.ReadFull(connection, buffer[:2]); err != nil {
		return nil, "", err
	}
	answer = buffer[:binary.BigEndian.Uint16(buffer)]
	_, err = io.ReadFull(connection, answer)
	return answer, connection.RemoteAddr().String(), err
}

// asker is a process that asks.
type asker struct{ *env.Process }

func newAsker(t *testing.T, cgroup fault.Cgroup, ns *env.Namespace) asker {
	t.Helper()
	a := asker{env.Start(t, cgroup, ns, "ask")}
	var ready string
	a.Read(&ready)
	return a
}

// ask asks one question.
func (a asker) ask(t *testing.T, question string) response {
	t.Helper()
	a.Tell(question)
	var r response
	a.Read(&r)
	return r
}

// The name servers of the tests, and what they know.
const (
	server4 = "127.0.0.2:53"
	server6 = "[::1]:53"
	db, db6 = "10.1.1.1", "fd00:1::1"
	web     = "10.1.1.2"
)

// serve starts dnsmasq in a namespace, which knows db.example.com and web.example.com.
func serve(t *testing.T, ns *env.Namespace) {
	t.Helper()
	env.StartProgram(t, env.Cgroup(t), ns, "dnsmasq", "--keep-in-foreground", "--user=root", "--conf-file=/dev/null",
		"--pid-file=", "--no-resolv", "--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.2,::1",
		"--host-record=db.example.com,"+db+","+db6, "--host-record=web.example.com,"+web,
		"--txt-record=db.example.com,hello")
	client := newAsker(t, env.Cgroup(t), ns)
	if err := env.Within(time.Minute, func() error {
		var err error
		ns.Do(func() error {
			var connection net.Conn
			if connection, err = net.Dial("tcp", server4); err == nil {
				_ = connection.Close()
			}
			return nil
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got := client.ask(t, "udp "+server6+" A db.example.com"); !slices.Equal(got.Addresses, []string{db}) {
		t.Fatalf("dnsmasq answers %+v", got)
	}
}

// wrong is a fault.
func wrong(answer v1.DnsFault_Answer, names ...string) *v1.Fault {
	return &v1.Fault{Fault: &v1.Fault_DnsFault{DnsFault: &v1.DnsFault{Names: names, Answer: answer}}}
}

func inject(t *testing.T, spec *v1.Fault, targets ...fault.Cgroup) *env.Injected {
	t.Helper()
	return env.Inject(t, dns.Fault(), spec, nil, targets...)
}

func expectCounters(t *testing.T, i *env.Injected, matched, hit uint64) {
	t.Helper()
	want := fault.Counters{Matched: matched, Injected: hit}
	if c := i.Count(); c != want {
		t.Errorf("counters %+v, want %+v", c, want)
	}
}
