package nearest

import "testing"

func TestWord(t *testing.T) {
	words := []string{"networkLoss", "networkLatency", "fileError", "diskError", "pid", "host", "EGRESS", "ECONNREFUSED"}
	for in, want := range map[string]string{
		"networkLos": "networkLoss", "network_loss": "networkLoss", "netwrokLoss": "networkLoss", "NetworkLatancy": "networkLatency",
		"egress": "EGRESS", "ECONREFUSED": "ECONNREFUSED", "hots": "host", "pdi": "pid",
		"banana": "", "": "", "x": "", "zzz": "",
	} {
		got, ok := Word(in, words)
		if got != want || ok != (want != "") {
			t.Errorf("Word(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
}
