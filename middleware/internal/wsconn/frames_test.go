package wsconn

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
)

// serverStream builds what a server may send from a recipe of arbitrary bytes,
// and returns it with the offsets at which a frame may begin, and the code of the
// close frame, if there is one.
func serverStream(recipe []byte) (stream []byte, boundaries map[int]bool, code int) {
	boundaries = make(map[int]bool)
	code = 1006
	if len(recipe) > 0 && recipe[0]&1 != 0 {
		if recipe[0]&2 != 0 {
			stream = append(stream, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"...)
		}
		stream = append(stream, "HTTP/1.1 101 Switching Protocols\r\nX: \x81\x05H\r\n"...)
		stream = append(stream, bytes.Repeat([]byte("Y: z\r\n"), int(recipe[0])/32)...)
		stream = append(stream, "\r\n"...)
		boundaries[len(stream)] = true
	}
	for len(recipe) >= 4 {
		op, form, size := recipe[0]&0xf, recipe[1], int(binary.BigEndian.Uint16(recipe[2:]))
		recipe = recipe[4:]
		if size != 65_535 {
			size %= 2000 // for the sake of speed
		}
		head := []byte{0x80 | op, 0} // FIN: an H would not be a frame
		switch form % 3 {
		case 0:
			size %= 126
			head[1] = byte(size)
		case 1:
			head = binary.BigEndian.AppendUint16(append(head[:1], 126), uint16(size))
		case 2:
			head = binary.BigEndian.AppendUint64(append(head[:1], 127), uint64(size))
		}
		if form&0x80 != 0 {
			head[1] |= 0x80
			head = append(head, 1, 2, 3, 4)
		}
		payload := bytes.Repeat([]byte{byte(size)}, size)
		stream = append(append(stream, head...), payload...)
		boundaries[len(stream)] = true
		if head[0]&0xf == opClose && code == 1006 {
			if code = 1005; size >= 2 {
				code = int(binary.BigEndian.Uint16(payload))
			}
		}
	}
	return stream, boundaries, code
}

// However the bytes are cut, the boundaries are where the frames were put.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0x01, 0, 0, 5}, []byte{1})
	f.Add([]byte{0x82, 1, 1, 0, 0x88, 0, 0, 2}, []byte{3, 200})
	f.Add([]byte{0x82, 2, 255, 255, 0x89, 0, 0, 0}, []byte{255, 1, 1, 1})
	f.Add([]byte{0xf3, 0x80, 0, 9, 0x88, 0, 0, 0}, []byte{7})
	f.Fuzz(func(t *testing.T, recipe, cuts []byte) {
		if len(recipe) > 64 {
			return
		}
		stream, boundaries, code := serverStream(recipe)
		var tracked frames
		for at, i := 0, 0; at < len(stream); i++ {
			n := 1
			if len(cuts) > 0 {
				n += int(cuts[i%len(cuts)]) * 7
			}
			piece := stream[at:min(at+n, len(stream))]

			// next stops at the first boundary in the piece, and nowhere else.
			ahead := tracked
			stop := ahead.next(piece)
			for k := at + 1; k < at+stop; k++ {
				if boundaries[k] {
					t.Fatalf("next went past the boundary at %d", k)
				}
			}
			if boundaries[at+stop] != ahead.boundary() {
				t.Fatalf("after %d bytes: boundary %v, want %v",
					at+stop, ahead.boundary(), !ahead.boundary())
			}

			tracked.advance(piece)
			at += len(piece)
			if boundaries[at] != tracked.boundary() {
				t.Fatalf("after %d bytes: boundary %v, want %v",
					at, tracked.boundary(), !tracked.boundary())
			}
		}
		require.Equal(t, code, tracked.closeCode())
	})
}

func TestFramesOfOtherAnswers(t *testing.T) {
	for _, tt := range []struct {
		sent  string
		phase phase
	}{
		{"", phaseStart},
		{"HTTP/1.1 400 Bad Request\r\n\r\nbody", phaseOther},
		{"HTTP/1.1 200 OK\n\n\x81\x00", phaseOther}, // bare line feeds (RFC 9112 section 2.2)
		{"HTTP/1.1 101 x\n\n", phaseFrames},
		{"HTTP/1.1 101 x\r\n\r", phaseResponse},
		{"HTTP/1.1 103 x\r\n\r\n", phaseStart},
		{"HTTP/1.1 \r\n\r\n", phaseOther},
		{"\x81\x00", phaseFrames},
	} {
		var f frames
		for _, b := range []byte(tt.sent) {
			f.advance([]byte{b})
		}
		require.Equal(t, tt.phase, f.phase, "%q", tt.sent)
		var g frames
		g.advance([]byte(tt.sent))
		require.Equal(t, f, g, "%q", tt.sent)
	}
}
