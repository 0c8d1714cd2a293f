package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// The part of the NBD protocol that QEMU's client needs: the fixed newstyle
// handshake, and read, write and flush with simple replies
// (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md). All numbers
// are big endian.
const (
	magicServer      = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption      = 0x49484156454f5054 // "IHAVEOPT"
	magicOptionReply = 0x0003e889045565a9
	magicRequest     = 0x25609513
	magicReply       = 0x67446698

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optionExportName = 1
	optionAbort      = 2
	optionInfo       = 6
	optionGo         = 7

	replyAck         = 1
	replyInfo        = 3
	replyUnsupported = 1<<31 + 1

	infoExport    = 0
	infoBlockSize = 3

	exportHasFlags  = 1 << 0
	exportSendFlush = 1 << 2

	commandRead       = 0
	commandWrite      = 1
	commandDisconnect = 2
	commandFlush      = 3

	// maxLength is the longest request in bytes that clients may send without
	// having asked, and maxOption is more than any option has.
	maxLength = 32 << 20
	maxOption = 64 << 10
)

// errProtocol is for a client that does not speak the protocol.
var errProtocol = errors.New("not the NBD protocol")

// Server serves one disk at a Unix socket.
type Server struct {
	disk     *Disk
	listener net.Listener

	mu          sync.Mutex
	connections map[net.Conn]bool
	closed      bool
	errs        []error
	serving     sync.WaitGroup
}

// Serve begins to serve the disk at a socket of that path, which is made.
func Serve(d *Disk, path string) (*Server, error) {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("serving the disk: %w", err)
	}
	s := &Server{disk: d, listener: listener, connections: map[net.Conn]bool{}}
	s.serving.Go(s.accept)
	return s, nil
}

func (s *Server) accept() {
	for {
		connection, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			connection.Close()
			return
		}
		s.connections[connection] = true
		s.mu.Unlock()
		s.serving.Go(func() {
			err := s.serve(connection)
			s.mu.Lock()
			delete(s.connections, connection)
			// How a client leaves is its own affair, and a cut ends them all.
			if err != nil && !s.closed && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) &&
				!errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, ErrCut) {
				s.errs = append(s.errs, err)
			}
			s.mu.Unlock()
			connection.Close()
		})
	}
}

// Close ends the connections and removes the socket. It returns what went wrong
// while it served.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	err := s.listener.Close()
	for connection := range s.connections {
		connection.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
	return errors.Join(append(s.errs, err)...)
}

func (s *Server) serve(c net.Conn) error {
	agreed, err := s.handshake(c)
	if err != nil || !agreed {
		return err
	}
	buffer := make([]byte, maxLength)
	for {
		goOn, err := s.request(c, buffer)
		if err != nil || !goOn {
			return err
		}
	}
}

// handshake returns false when the client wants no more than that.
func (s *Server) handshake(c io.ReadWriter) (agreed bool, err error) {
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)
	if _, err := c.Write(hello); err != nil {
		return false, err
	}
	var flags uint32
	if err := binary.Read(c, binary.BigEndian, &flags); err != nil {
		return false, err
	}
	for {
		var head struct {
			Magic          uint64
			Option, Length uint32
		}
		if err := binary.Read(c, binary.BigEndian, &head); err != nil {
			return false, err
		}
		if head.Magic != magicOption || head.Length > maxOption {
			return false, fmt.Errorf("reading an option: %w", errProtocol)
		}
		// There is one export, whatever it is called.
		if _, err := io.CopyN(io.Discard, c, int64(head.Length)); err != nil {
			return false, err
		}
		switch head.Option {
		case optionExportName:
			return true, s.exportByName(c, flags&flagNoZeroes == 0)
		case optionAbort:
			return false, optionReply(c, head.Option, replyAck, nil)
		case optionInfo, optionGo:
			if err := s.describe(c, head.Option); err != nil {
				return false, err
			}
			if head.Option == optionGo {
				return true, nil
			}
		default:
			if err := optionReply(c, head.Option, replyUnsupported, nil); err != nil {
				return false, err
			}
		}
	}
}

// export is the size and what the server can do.
func (s *Server) export() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(s.disk.Size()))
	return binary.BigEndian.AppendUint16(b, exportHasFlags|exportSendFlush)
}

// exportByName is the answer of the oldest option, which has no head.
func (s *Server) exportByName(c io.Writer, zeroes bool) error {
	b := s.export()
	if zeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := c.Write(b)
	return err
}

func (s *Server) describe(c io.Writer, option uint32) error {
	export := append(binary.BigEndian.AppendUint16(nil, infoExport), s.export()...)
	sizes := binary.BigEndian.AppendUint16(nil, infoBlockSize)
	for _, size := range []uint32{SectorSize, 4096, maxLength} { // least, best, most
		sizes = binary.BigEndian.AppendUint32(sizes, size)
	}
	return errors.Join(
		optionReply(c, option, replyInfo, export),
		optionReply(c, option, replyInfo, sizes),
		optionReply(c, option, replyAck, nil),
	)
}

func optionReply(c io.Writer, option, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOptionReply)
	for _, field := range []uint32{option, kind, uint32(len(data))} {
		b = binary.BigEndian.AppendUint32(b, field)
	}
	_, err := c.Write(append(b, data...))
	return err
}

// request answers one request; false when the client says that it was the last.
// One after another, so that everything that was answered before a flush, and
// more, is on the medium after it.
func (s *Server) request(c io.ReadWriter, buffer []byte) (goOn bool, err error) {
	var head struct {
		Magic          uint32
		Flags, Command uint16
		Cookie, Offset uint64
		Length         uint32
	}
	if err := binary.Read(c, binary.BigEndian, &head); err != nil {
		return false, err
	}
	if head.Magic != magicRequest || head.Flags != 0 || head.Command <= commandWrite && head.Length > maxLength {
		return false, fmt.Errorf("reading request %+v: %w", head, errProtocol)
	}
	var data []byte
	switch head.Command {
	case commandRead:
		data = buffer[:head.Length]
		_, err = s.disk.ReadAt(data, int64(head.Offset))
	case commandWrite:
		if _, err := io.ReadFull(c, buffer[:head.Length]); err != nil {
			return false, err
		}
		_, err = s.disk.WriteAt(buffer[:head.Length], int64(head.Offset))
	case commandFlush:
		err = s.disk.Flush()
	case commandDisconnect:
		return false, nil
	default:
		err = ErrRange
	}
	var number uint32
	switch {
	case errors.Is(err, ErrCut):
		return false, err // nobody answers without power
	case errors.Is(err, ErrRange):
		number = uint32(unix.EINVAL)
	case err != nil:
		number = uint32(unix.EIO)
	}
	if number != 0 {
		data = nil
	}
	reply := binary.BigEndian.AppendUint32(nil, magicReply)
	reply = binary.BigEndian.AppendUint32(reply, number)
	reply = binary.BigEndian.AppendUint64(reply, head.Cookie)
	if _, err := c.Write(append(reply, data...)); err != nil {
		return false, err
	}
	// The client gets a number only; whoever runs the server gets the error.
	if number == uint32(unix.EIO) {
		s.mu.Lock()
		s.errs = append(s.errs, err)
		s.mu.Unlock()
	}
	return true, nil
}
