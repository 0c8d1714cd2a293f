package dns

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/dice"
)

// recordTypes are those that programs ask for, with their numbers (RFC 1035, 3596, 2782,
// 3403, 9460, 8659).
var recordTypes = map[string]dnsmessage.Type{
	"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "NAPTR": 35,
	"SVCB": 64, "HTTPS": 65, "ANY": 255, "CAA": 257,
}

// question is one that a name server is asked.
type question struct {
	header dnsmessage.Header
	dnsmessage.Question
	// extended: the one who asks knows EDNS (RFC 6891).
	extended bool
}

// parse reads a query. What is none, or asks for something else than one name, is not
// for us.
func parse(message []byte) (question, bool) {
	var p dnsmessage.Parser
	header, err := p.Start(message)
	if err != nil || header.Response || header.OpCode != 0 {
		return question{}, false
	}
	all, err := p.AllQuestions()
	if err != nil || len(all) != 1 || all[0].Class != dnsmessage.ClassINET && all[0].Class != dnsmessage.ClassANY {
		return question{}, false
	}
	q := question{header: header, Question: all[0]}
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, true
	}
	for {
		record, err := p.AdditionalHeader()
		if err != nil {
			return q, true
		}
		q.extended = q.extended || record.Type == dnsmessage.TypeOPT
		if p.SkipAdditional() != nil {
			return q, true
		}
	}
}

// name is what is asked for, as patterns are compared with.
func (q question) name() string { return normal(q.Name.String()) }

func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// typeName is the type's name, or the library's word for it.
func (q question) typeName() string {
	for name, number := range recordTypes {
		if number == q.Type {
			return name
		}
	}
	return q.Type.String()
}

// concerns tells whether a fault is about a question.
func concerns(spec *v1.DnsFault, q question) bool {
	name := q.name()
	named := false
	for _, pattern := range spec.GetNames() {
		pattern = normal(pattern)
		suffix, below := strings.CutPrefix(pattern, "*")
		named = named || name == pattern || below && strings.HasSuffix(name, suffix)
	}
	if !named {
		return false
	}
	if len(spec.GetTypes()) == 0 {
		return !givesAddress(spec) || q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA
	}
	for _, t := range spec.GetTypes() {
		if recordTypes[t] == q.Type {
			return true
		}
	}
	return false
}

func givesAddress(spec *v1.DnsFault) bool {
	return spec.GetAnswer() == v1.DnsFault_ADDRESS || spec.GetAnswer() == v1.DnsFault_RANDOM_ADDRESS
}

var codes = map[v1.DnsFault_Answer]dnsmessage.RCode{
	v1.DnsFault_NXDOMAIN: dnsmessage.RCodeNameError, v1.DnsFault_SERVFAIL: dnsmessage.RCodeServerFailure,
	v1.DnsFault_REFUSED: dnsmessage.RCodeRefused,
}

// payloadMax is the size of datagrams that we would take (RFC 6891).
const payloadMax = 1232

// answer is what a question gets; nil for none at all. An address of the other family than
// is asked for is none: the name exists, and has no such record.
func answer(spec *v1.DnsFault, q question, seed, ordinal uint64) ([]byte, error) {
	if spec.GetAnswer() == v1.DnsFault_TIMEOUT {
		return nil, nil
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.header.ID, Response: true, RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true,
		RCode: codes[spec.GetAnswer()],
	})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q.Question); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	if address := addressFor(spec, q, seed, ordinal); address.IsValid() {
		// Nobody is to keep it.
		header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 0}
		var err error
		if address.Is4() {
			err = b.AResource(header, dnsmessage.AResource{A: address.As4()})
		} else {
			err = b.AAAAResource(header, dnsmessage.AAAAResource{AAAA: address.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	if q.extended {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var header dnsmessage.ResourceHeader
		if err := header.SetEDNS0(payloadMax, codes[spec.GetAnswer()], false); err != nil {
			return nil, err
		}
		if err := b.OPTResource(header, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// addressFor is the address that an answer has, if it has one.
func addressFor(spec *v1.DnsFault, q question, seed, ordinal uint64) netip.Addr {
	var address netip.Addr
	switch spec.GetAnswer() {
	case v1.DnsFault_ADDRESS:
		address = netip.MustParseAddr(spec.GetAddress()).Unmap() // it was validated
	case v1.DnsFault_RANDOM_ADDRESS:
		address = nowhere(q.Type == dnsmessage.TypeA, dice.Random(seed, ordinal, dice.StreamModel))
	}
	if address.Is4() != (q.Type == dnsmessage.TypeA) {
		return netip.Addr{}
	}
	return address
}

// nowhere is an address of those that documents use (RFC 5737, 3849), where nobody is: a
// program that is led astray must not be led to a stranger.
func nowhere(ipv4 bool, random uint32) netip.Addr {
	low := [3]byte{byte(random >> 16), byte(random >> 8), byte(random)}
	if ipv4 {
		networks := [][3]byte{{192, 0, 2}, {198, 51, 100}, {203, 0, 113}}
		n := networks[int(low[0])%len(networks)]
		return netip.AddrFrom4([4]byte{n[0], n[1], n[2], 1 + low[2]%254})
	}
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 13: low[0], 14: low[1], 15: low[2] | 1})
}
