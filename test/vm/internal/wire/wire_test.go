package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFramesArriveWholeAndInOrder(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	big := strings.Repeat("x", MaxPayload+10)
	for _, step := range []struct {
		kind Kind
		text string
	}{{Stdout, "one"}, {Stderr, "two"}, {Stdout, big}} {
		if n, err := io.WriteString(w.Stream(step.kind), step.text); err != nil || n != len(step.text) {
			t.Fatalf("writing %d bytes: %d, %v", len(step.text), n, err)
		}
	}
	if err := w.Send(Exit, []byte{7}); err != nil {
		t.Fatal(err)
	}

	var got []string
	for {
		kind, payload, err := Receive(&b)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(kind)+string(payload))
	}
	want := []string{"Oone", "Etwo", "O" + big[:MaxPayload], "O" + big[MaxPayload:], "X\x07"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("frames (-want +got):\n%s", diff)
	}
}

func TestFramesOfSeveralWritersDoNotMix(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	const each = 200
	var wg sync.WaitGroup
	for _, kind := range []Kind{Stdout, Stderr} {
		wg.Go(func() {
			for range each {
				if err := w.Send(kind, []byte{byte(kind), byte(kind)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range 2 * each {
		kind, payload, err := Receive(&b)
		if err != nil {
			t.Fatal(err)
		}
		if want := []byte{byte(kind), byte(kind)}; !bytes.Equal(payload, want) {
			t.Fatalf("kind %q carries %q", kind, payload)
		}
	}
}

func TestReceiveRefusesWhatIsNoFrame(t *testing.T) {
	for _, tc := range []struct {
		name, bytes string
		want        error
	}{
		{"nothing", "", io.EOF},
		{"part of a header", "O\x00", io.ErrUnexpectedEOF},
		{"no payload", "O\x00\x00\x00\x03", io.ErrUnexpectedEOF},
		{"part of a payload", "O\x00\x00\x00\x03ab", io.ErrUnexpectedEOF},
		{"unknown kind", "?\x00\x00\x00\x00", ErrFrame},
		{"too large", "O\xff\x00\x00\x00", ErrFrame},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, _, err := Receive(strings.NewReader(tc.bytes)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestSendRefusesATooLargeFrame(t *testing.T) {
	var b bytes.Buffer
	if err := NewWriter(&b).Send(Stdout, make([]byte, MaxPayload+1)); err == nil || b.Len() != 0 {
		t.Errorf("got %v and %d bytes, want an error and none", err, b.Len())
	}
}
