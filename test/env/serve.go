//go:build linux

package env

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"time"
)

// Serve says that a workload is ready, and then answers each line of in with
// what fn makes of its words, until in ends.
func Serve(in io.Reader, out *json.Encoder, fn func(words []string) (answer any, err error)) error {
	if err := out.Encode("ready"); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		answer, err := fn(strings.Fields(lines.Text()))
		if err != nil {
			return err
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return nil
}

// ServeConnections says that a workload is ready, and then answers what fn makes
// of one connection to the address after the other; it closes them.
func ServeConnections(out *json.Encoder, address string, fn func(net.Conn) (answer any, err error)) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if err := out.Encode("ready"); err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		answer, err := fn(connection)
		if err := errors.Join(err, connection.Close()); err != nil {
			return err
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

// listenUDP listens at an address and has room for everything that is ever sent.
func listenUDP(address string) (*net.UDPConn, error) {
	local, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	connection, err := net.ListenUDP("udp", local)
	if err != nil {
		return nil, err
	}
	return connection, growBuffer(connection)
}

// receive calls fn for each datagram until none has come for as long as patience;
// fn returns how long the next one is waited for.
func receive(connection *net.UDPConn, patience time.Duration, fn func(datagram []byte) (next time.Duration, err error)) error {
	buffer := make([]byte, 65536)
	for {
		if err := connection.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		n, err := connection.Read(buffer)
		if err != nil {
			return nil
		}
		if patience, err = fn(buffer[:n]); err != nil {
			return err
		}
	}
}

// wrote notes an error of sending.
func (s *Sent) wrote(_ int, err error) {
	if err != nil {
		s.Errors++
		s.First = err.Error()
	}
}
