package probe

import (
	"context"
	"fmt"
	"net"
	"strconv"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

func newTCP(t *v1.TcpProbe) (func(context.Context) error, error) {
	addr := t.GetAddress()
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return nil, fmt.Errorf("tcp.address is %q: wanted host:port", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("tcp.address is %q: the port must be a number from 1 to 65535", addr)
	}
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return &lateError{"tcp " + addr, "a connection", err}
		}
		_ = conn.Close()
		return nil
	}, nil
}
