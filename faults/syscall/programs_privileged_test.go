//go:build linux && privileged

package syscall_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/test/env"
)

// The documents of these tests stand in docs/faults/syscallError.md.

const httpAddress = "127.0.0.1:8080"

// serveHTTP is a server in Go.
func serveHTTP(_ io.Reader, out *json.Encoder, _ []string) error {
	listener, err := net.Listen("tcp", httpAddress)
	if err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }),
		ReadHeaderTimeout: time.Minute,
	}
	return server.Serve(listener)
}

// nodeServer is one in JavaScript.
const nodeServer = `require("http").createServer((_, r) => r.end("hello")).listen(8080, "127.0.0.1", () => console.log('"ready"'))`

// get asks a server, over one connection after another and, of each, twice.
func get(t *testing.T, network env.Network, times int) error {
	t.Helper()
	dial := func(ctx context.Context, kind, address string) (connection net.Conn, err error) {
		network.A.Do(func() error { connection, err = (&net.Dialer{}).DialContext(ctx, kind, address); return nil })
		return connection, err
	}
	for range times {
		client := http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 30 * time.Second}
		for range 2 {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+httpAddress, nil)
			if err != nil {
				return err
			}
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			text, err := io.ReadAll(response.Body)
			if err := errors.Join(err, response.Body.Close()); err != nil {
				return err
			}
			if string(text) != "hello" {
				return fmt.Errorf("the answer is %q", text)
			}
		}
		client.CloseIdleConnections()
	}
	return nil
}

// A program that reads as it should takes no notice of reads that are interrupted (Go),
// or find nothing though they were told of something (Node).
func TestServersWhoseReadsFailForNow(t *testing.T) {
	needMechanism(t, "auto")
	network := env.NewLoopback(t)
	const times = 20
	for name, tt := range map[string]struct {
		errno   string
		program []string
	}{
		"Go":   {"EINTR", nil},
		"Node": {"EAGAIN", []string{"node", "-e", nodeServer}},
	} {
		t.Run(name, func(t *testing.T) {
			target := env.Cgroup(t)
			var server *env.Process
			if tt.program == nil {
				server = env.Start(t, target, network.A, "http")
			} else {
				server = env.StartProgram(t, target, network.A, tt.program[0], tt.program[1:]...)
			}
			defer server.Kill()
			var ready string
			server.Read(&ready)
			if err := get(t, network, 1); err != nil {
				t.Fatal(err)
			}
			spec := fails("", "read")
			spec.GetSyscallError().Errno = tt.errno
			spec.GetSyscallError().Arguments = []*v1.Argument{{Index: 0, Is: v1.Argument_GREATER, Value: 2}}
			spec.Rate = &v1.Rate{Every: proto.Uint64(2)}
			i := inject(t, spec, target)
			if err := get(t, network, times); err != nil {
				t.Errorf("during the fault: %v", err)
			}
			i.End()
			// At that moment one may have been chosen, and not have failed yet.
			if c := i.Count(); c.Injected < times || c.Injected+c.Missed != c.Matched/2 || c.Missed > 1 {
				t.Errorf("counters %+v", c)
			}
			if err := get(t, network, 1); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}
