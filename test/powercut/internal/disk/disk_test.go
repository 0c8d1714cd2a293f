package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

const testSize = 1 << 20

// medium makes an empty medium.
func medium(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, testSize), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string, luck float64) *Disk {
	t.Helper()
	d, err := Open(path, luck, rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := d.Cut(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func write(t *testing.T, d *Disk, content byte, sectors int, at int64) {
	t.Helper()
	if _, err := d.WriteAt(bytes.Repeat([]byte{content}, sectors*SectorSize), at*SectorSize); err != nil {
		t.Fatal(err)
	}
}

// contents returns the first byte of each sector, which must be all of the sector's.
func contents(t *testing.T, r io.ReaderAt, sectors int) []byte {
	t.Helper()
	b := make([]byte, sectors*SectorSize)
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	var first []byte
	for s := range sectors {
		content := b[s*SectorSize : (s+1)*SectorSize]
		if bytes.Count(content, content[:1]) != SectorSize {
			t.Fatalf("sector %d is torn", s)
		}
		first = append(first, content[0])
	}
	return first
}

// afterCut opens the medium as the next boot does.
func afterCut(t *testing.T, path string, sectors int) []byte {
	t.Helper()
	return contents(t, open(t, path, 0), sectors)
}

func TestCutLosesWhatWasNotFlushed(t *testing.T) {
	path := medium(t)
	d := open(t, path, 0)
	write(t, d, 'a', 2, 0)
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	write(t, d, 'b', 2, 1)
	if got := contents(t, d, 3); string(got) != "abb" {
		t.Errorf("before the cut the disk has %q, want what was written last", got)
	}
	stats, err := d.Cut()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Stats{Writes: 2, Flushes: 1, Lost: 2}); stats != want {
		t.Errorf("got %+v, want %+v", stats, want)
	}
	if got := afterCut(t, path, 3); string(got) != "aa\x00" {
		t.Errorf("after the cut the medium has %q, want what was flushed", got)
	}
}

func TestCutEndsEverything(t *testing.T) {
	d := open(t, medium(t), 0)
	if _, err := d.Cut(); err != nil {
		t.Fatal(err)
	}
	sector := make([]byte, SectorSize)
	_, read := d.ReadAt(sector, 0)
	_, written := d.WriteAt(sector, 0)
	for _, err := range []error{read, written, d.Flush()} {
		if !errors.Is(err, ErrCut) {
			t.Errorf("got %v, want %v", err, ErrCut)
		}
	}
	if _, err := d.Cut(); err != nil {
		t.Errorf("a second cut: %v", err)
	}
}

func TestCutAtWrite(t *testing.T) {
	path := medium(t)
	d := open(t, path, 0)
	d.CutAtWrite(3)
	write(t, d, 'a', 1, 0)
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	write(t, d, 'b', 1, 1)
	select {
	case <-d.Gone():
		t.Fatal("gone before its time")
	default:
	}
	if _, err := d.WriteAt(make([]byte, SectorSize), 2*SectorSize); !errors.Is(err, ErrCut) {
		t.Errorf("third write: %v, want %v", err, ErrCut)
	}
	<-d.Gone()
	stats, err := d.Cut()
	if want := (Stats{Writes: 3, Flushes: 1, Lost: 2}); err != nil || stats != want {
		t.Errorf("got %+v, %v, want %+v", stats, err, want)
	}
	if got := afterCut(t, path, 2); string(got) != "a\x00" {
		t.Errorf("after the cut the medium has %q", got)
	}
}

func TestLuckKeepsAnyPart(t *testing.T) {
	const sectors = 1000
	path := medium(t)
	d := open(t, path, 0.3)
	write(t, d, 'a', sectors, 0)
	write(t, d, 'b', sectors, 0)
	stats, err := d.Cut()
	if err != nil {
		t.Fatal(err)
	}
	got := afterCut(t, path, sectors)
	none, a, b := bytes.Count(got, []byte{0}), bytes.Count(got, []byte("a")), bytes.Count(got, []byte("b"))
	if none+a+b != sectors || b != stats.Kept || stats.Kept+stats.Lost != sectors {
		t.Errorf("%d sectors have nothing, %d the first version, %d the last; %+v", none, a, b, stats)
	}
	// The last version with 0.3, else the first with 0.3; each within five
	// standard deviations.
	for name, count := range map[string][2]int{"first": {a, 210}, "last": {b, 300}} {
		if difference := count[0] - count[1]; difference < -75 || difference > 75 {
			t.Errorf("%s version: %d sectors, want about %d", name, count[0], count[1])
		}
	}
}

func TestSectorsOutsideAreRefused(t *testing.T) {
	d := open(t, medium(t), 0)
	for _, tc := range []struct{ length, offset int64 }{
		{SectorSize, testSize}, {2 * SectorSize, testSize - SectorSize}, {SectorSize, -SectorSize}, {SectorSize, 1}, {1, 0},
	} {
		_, written := d.WriteAt(make([]byte, tc.length), tc.offset)
		_, read := d.ReadAt(make([]byte, tc.length), tc.offset)
		if !errors.Is(written, ErrRange) || !errors.Is(read, ErrRange) {
			t.Errorf("%d at %d: got %v and %v, want %v", tc.length, tc.offset, written, read, ErrRange)
		}
	}
}

func TestOpenRefusesHalfSectors(t *testing.T) {
	for _, size := range []int{0, SectorSize + 1} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, 0, nil); !errors.Is(err, ErrRange) {
			t.Errorf("%d bytes: got %v, want %v", size, err, ErrRange)
		}
	}
}

// client is an NBD client, written from the protocol and not from the server.
type client struct {
	t *testing.T
	c net.Conn
}

func (c client) send(fields ...any) {
	c.t.Helper()
	var b bytes.Buffer
	for _, field := range fields {
		if err := binary.Write(&b, binary.BigEndian, field); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := c.c.Write(b.Bytes()); err != nil {
		c.t.Fatal(err)
	}
}

func (c client) receive(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.c, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

// connect shakes hands as QEMU does: an option that the server does not know, then
// NBD_OPT_GO.
func connect(t *testing.T, path string) (c client, size uint64, flags uint16) {
	t.Helper()
	connection, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	c = client{t, connection}
	if got := c.receive(18); string(got[:16]) != "NBDMAGICIHAVEOPT" || got[17] != 3 {
		t.Fatalf("greeting is %q", got)
	}
	c.send(uint32(3))
	c.send([]byte("IHAVEOPT"), uint32(8), uint32(0)) // NBD_OPT_STRUCTURED_REPLY
	if got := c.receive(20); binary.BigEndian.Uint32(got[12:]) != 0x80000001 {
		t.Fatalf("structured replies: got %x, want NBD_REP_ERR_UNSUP", got)
	}
	c.send([]byte("IHAVEOPT"), uint32(7), uint32(6), uint32(0), uint16(0))
	for {
		head := c.receive(20)
		data := c.receive(int(binary.BigEndian.Uint32(head[16:])))
		switch binary.BigEndian.Uint32(head[12:]) {
		case 1:
			return c, size, flags
		case 3:
			if binary.BigEndian.Uint16(data) == 0 {
				size, flags = binary.BigEndian.Uint64(data[2:]), binary.BigEndian.Uint16(data[10:])
			}
		default:
			t.Fatalf("option reply %x", head)
		}
	}
}

// request sends a request and returns the error number and the data of the reply.
func (c client) request(command uint16, offset uint64, length int, data []byte) (number uint32, reply []byte) {
	c.t.Helper()
	cookie := rand.Uint64()
	c.send(uint32(0x25609513), uint16(0), command, cookie, offset, uint32(length), data)
	head := c.receive(16)
	if binary.BigEndian.Uint32(head) != 0x67446698 || binary.BigEndian.Uint64(head[8:]) != cookie {
		c.t.Fatalf("reply %x", head)
	}
	number = binary.BigEndian.Uint32(head[4:])
	if command == 0 && number == 0 {
		reply = c.receive(length)
	}
	return number, reply
}

func TestServerServesTheDisk(t *testing.T) {
	path := medium(t)
	d := open(t, path, 0)
	socket := filepath.Join(t.TempDir(), "s")
	s, err := Serve(d, socket)
	if err != nil {
		t.Fatal(err)
	}
	c, size, flags := connect(t, socket)
	// NBD_FLAG_HAS_FLAGS and NBD_FLAG_SEND_FLUSH, without which nobody flushes.
	if size != testSize || flags != 1|4 {
		t.Errorf("size %d, flags %b", size, flags)
	}
	ok := func(command uint16, sector, length int, data string) string {
		t.Helper()
		number, reply := c.request(command, uint64(sector*SectorSize), length, bytes.Repeat([]byte(data), SectorSize))
		if number != 0 {
			t.Errorf("command %d: error %d", command, number)
		}
		return string(reply)
	}
	ok(1, 0, SectorSize, "a")
	ok(3, 0, 0, "")
	ok(1, 1, SectorSize, "b")
	if got := ok(0, 0, 2*SectorSize, ""); got[0] != 'a' || got[SectorSize] != 'b' {
		t.Errorf("read %q", got)
	}
	if number, _ := c.request(0, testSize, SectorSize, nil); number != uint32(unix.EINVAL) {
		t.Errorf("reading behind the end: error %d, want EINVAL", number)
	}
	if _, err := d.Cut(); err != nil {
		t.Fatal(err)
	}
	// Without power there is no answer, not even an error.
	c.send(uint32(0x25609513), uint16(0), uint16(3), uint64(1), uint64(0), uint32(0))
	if n, err := c.c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the cut: %d bytes, %v; want the end", n, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := afterCut(t, path, 2); string(got) != "a\x00" {
		t.Errorf("after the cut the medium has %q", got)
	}
}

func TestServerTellsOfStrangers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	s, err := Serve(open(t, medium(t), 0), socket)
	if err != nil {
		t.Fatal(err)
	}
	c, _, _ := connect(t, socket)
	c.send(bytes.Repeat([]byte{'x'}, 28))
	if _, err := io.Copy(io.Discard, c.c); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, errProtocol) {
		t.Errorf("got %v, want %v", err, errProtocol)
	}
}
