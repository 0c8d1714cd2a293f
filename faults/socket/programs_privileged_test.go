//go:build linux && privileged

package socket_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
	"faultline.dev/faultline/faults/fault"
	"faultline.dev/faultline/test/env"
)

// The documents of these tests stand in docs/faults/socketError.md.

// What curl exits with (curl(1)).
const (
	curlDone      = 0
	curlRefused   = 7
	curlTimeLimit = 28
)

// curl asks for a page, and returns what curl exits with.
func curl(t *testing.T, cgroup fault.Cgroup, network env.Network, address string) int {
	t.Helper()
	return env.StartProgram(t, cgroup, network.A, "curl", "--silent", "--noproxy", "*", "--max-time", "5", "http://"+address).Status()
}

func TestCurlIsRefusedByPeer(t *testing.T) {
	network := env.NewLoopback(t)
	var listener net.Listener
	network.A.Do(func() (err error) { listener, err = net.Listen("tcp4", "0.0.0.0:0"); return err })
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	refused, other := "127.0.0.2:"+port, "127.0.0.1:"+port

	eachMechanism(t, func(t *testing.T, mechanism string) {
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		spec := fails(mechanism, v1.SocketError_CONNECT)
		spec.GetSocketError().Errno = "ECONNREFUSED"
		spec.Filter = &v1.Filter{Peers: []string{"127.0.0.2"}}
		i := inject(t, spec, target)
		for _, tt := range []struct {
			who     string
			cgroup  fault.Cgroup
			address string
			want    int
		}{
			{"the target, and its peer", target, refused, curlRefused},
			{"the target, and another peer", target, other, curlDone},
			{"the neighbour", neighbour, refused, curlDone},
		} {
			if got := curl(t, tt.cgroup, network, tt.address); got != tt.want {
				t.Errorf("%s: curl exits with %d, want %d", tt.who, got, tt.want)
			}
		}
		expectCounters(t, i, 1, 1)
		i.End()
		if got := curl(t, target, network, refused); got != curlDone {
			t.Errorf("afterwards curl exits with %d", got)
		}
	})
}

// startNginx serves at an address, in one process; its log is in a file.
func startNginx(t *testing.T, cgroup fault.Cgroup, network env.Network, address string) (log string) {
	t.Helper()
	dir := t.TempDir()
	// It drops to a user who may not look into the directories of root.
	config := fmt.Sprintf(`user root;
daemon off;
master_process off;
pid %[1]s/pid;
error_log %[1]s/log;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server { listen %[2]s; return 200 hello; }
}
`, dir, address)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	env.StartProgram(t, cgroup, network.A, "nginx", "-e", dir+"/log", "-c", file)
	if err := env.Within(time.Minute, func() error {
		if got := curl(t, cgroup, network, address); got != curlDone {
			text, _ := os.ReadFile(dir + "/log")
			return fmt.Errorf("nginx does not serve: curl exits with %d\n%s", got, text)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return dir + "/log"
}

func TestNginxThatCanNotAccept(t *testing.T) {
	network := env.NewLoopback(t)
	const address = "127.0.0.1:8080"
	eachMechanism(t, func(t *testing.T, mechanism string) {
		if mechanism == "cgroup_sock" {
			return // TestWhatAMechanismCanNotDoIsSaid
		}
		target, neighbour := env.Cgroup(t), env.Cgroup(t)
		log := startNginx(t, target, network, address)
		spec := fails(mechanism, v1.SocketError_ACCEPT)
		spec.GetSocketError().Errno = "EMFILE"
		spec.Filter = &v1.Filter{LocalPorts: []string{"8080"}}
		i := inject(t, spec, target)
		if got := curl(t, neighbour, network, address); got != curlTimeLimit {
			t.Errorf("curl exits with %d, want %d", got, curlTimeLimit)
		}
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "accept4() failed (24: Too many open files)") {
			t.Errorf("nginx logs %q", text)
		}
		i.End()
		// Nginx tries by itself: until then one may have been chosen and not hit yet.
		if c := i.Count(); c.Injected == 0 || c.Injected != c.Matched || c.Missed != 0 {
			t.Errorf("counters %+v", c)
		}
		if got := curl(t, neighbour, network, address); got != curlDone {
			t.Errorf("afterwards curl exits with %d", got)
		}
	})
}
