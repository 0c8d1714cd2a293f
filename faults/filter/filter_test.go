package filter

import (
	"strings"
	"testing"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

func TestBadFiltersAreReportedWithTheirPlace(t *testing.T) {
	for _, test := range []struct {
		name          string
		filter        *v1.Filter
		path, message string
	}{
		{"port name", &v1.Filter{Ports: []string{"80", "http-alt"}}, "filter.ports[1]", `"http-alt" is no port`},
		{"port 0", &v1.Filter{Ports: []string{"0"}}, "filter.ports[0]", "1 to 65535"},
		{"port too large", &v1.Filter{LocalPorts: []string{"65536"}}, "filter.localPorts[0]", "1 to 65535"},
		{"range the wrong way", &v1.Filter{ExcludePorts: []string{"20-10"}}, "filter.excludePorts[0]", "ranges"},
		{"everything excluded", &v1.Filter{Ports: []string{"80"}, ExcludePorts: []string{"1-100"}}, "filter.excludePorts", "nothing could match"},
		{"prefix", &v1.Filter{Peers: []string{"10.0.0.0/33"}}, "filter.peers[0]", "CIDR"},
		{"name for an address", &v1.Filter{ExcludePeers: []string{"example.com"}}, "filter.excludePeers[0]", "CIDR"},
		{"address for a name", &v1.Filter{Hosts: []string{"10.0.0.1"}}, "filter.hosts[0]", "peers"},
		{"URL for a name", &v1.Filter{Hosts: []string{"http://example.com"}}, "filter.hosts[0]", "no host name"},
		{"empty name", &v1.Filter{Hosts: []string{""}}, "filter.hosts[0]", "no host name"},
		{"ICMP with ports", &v1.Filter{Protocol: v1.Filter_ICMP, Ports: []string{"80"}}, "filter.protocol", "no ports"},
		{"UDP connections", &v1.Filter{Protocol: v1.Filter_UDP, Connections: v1.Filter_NEW}, "filter.connections", "for TCP"},
	} {
		t.Run(test.name, func(t *testing.T) {
			problems := Validate(test.filter)
			if len(problems) != 1 || problems[0].Path != test.path || !strings.Contains(problems[0].Message, test.message) {
				t.Errorf("problems %v, want one at %s with %q", problems, test.path, test.message)
			}
		})
	}
}
