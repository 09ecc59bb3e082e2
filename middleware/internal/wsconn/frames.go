package wsconn

import "bytes"

// frames follows what a server sends on a hijacked connection: only where one WebSocket frame ends
// and the next may begin (RFC 6455 section 5.2). Server frames are not masked, so that their
// lengths are enough. It looks at no payload, but for the status code of a close frame.
type frames struct {
	phase phase

	// In phaseResponse.
	status []byte // the first bytes of the head, up to the status code
	blank  bool   // the line has no bytes so far, but for a carriage return

	// The current frame, in phaseFrames.
	op        uint8  // opcode
	head      uint8  // bytes of its first two, so far; 0: a frame may begin here
	extension uint8  // bytes of the extended length that are still to come
	mask      uint8  // bytes of the masking key that are still to come
	left      uint64 // bytes of the payload that are still to come

	// The first close frame.
	closed  bool // it has gone out, whole
	code    uint16
	codeLen uint8 // bytes of code, so far
}

type phase uint8

const (
	phaseStart    phase = iota // nothing has been sent: the first byte decides
	phaseResponse              // in the head of an HTTP response
	phaseFrames                // in a stream of frames
	phaseOther                 // in an HTTP answer that does not switch: there are no frames
)

const (
	opClose   = 8
	statusEnd = len("HTTP/1.1 101")
)

// begin decides what the first byte begins. Some libraries write their HTTP response through the
// connection that they have hijacked, others before. No server frame begins with an H: it would be
// a fragmented control frame.
func (f *frames) begin(first byte) {
	if first == 'H' {
		*f = frames{phase: phaseResponse, status: make([]byte, 0, statusEnd)}
	} else {
		f.phase = phaseFrames
	}
}

// boundary reports whether a frame may begin here.
func (f *frames) boundary() bool {
	return f.phase == phaseFrames && f.head == 0
}

// advance follows p, which has been sent.
func (f *frames) advance(p []byte) {
	for len(p) > 0 {
		p = p[f.next(p):]
	}
}

// next follows p up to the first boundary in it, or to its end, and returns how far that is: at
// least one byte of a p that is not empty.
func (f *frames) next(p []byte) int {
	if len(p) > 0 && f.phase == phaseStart {
		f.begin(p[0])
	}
	switch f.phase {
	case phaseResponse:
		for i, b := range p {
			if len(f.status) < statusEnd {
				f.status = append(f.status, b)
			}
			if b == '\n' && f.blank {
				f.endResponse()
				return i + 1
			}
			f.blank = b == '\n' || b == '\r' && f.blank
		}
	case phaseFrames:
		for rest := p; len(rest) > 0; {
			rest = f.frame(rest)
			if f.head == 0 {
				return len(p) - len(rest)
			}
		}
	}
	return len(p)
}

// endResponse decides by its status what follows the head of a response.
func (f *frames) endResponse() {
	status := f.status[min(len(f.status), len("HTTP/1.1 ")):]
	switch {
	case bytes.HasPrefix(status, []byte("101")):
		*f = frames{phase: phaseFrames}
	case bytes.HasPrefix(status, []byte("1")): // another response follows, as after 103
		*f = frames{}
	default:
		*f = frames{phase: phaseOther}
	}
}

// frame follows the current frame in p, which is not empty, and returns the rest of p. When the
// frame has ended, head is 0.
func (f *frames) frame(p []byte) []byte {
	switch {
	case f.head == 0:
		f.op = p[0] & 0x0f
		f.head = 1
		return p[1:]
	case f.head == 1:
		f.secondByte(p[0])
		p = p[1:]
	case f.extension > 0:
		f.left = f.left<<8 | uint64(p[0])
		f.extension--
		p = p[1:]
	case f.mask > 0:
		f.mask--
		p = p[1:]
	case f.op == opClose && f.codeLen < 2 && !f.closed:
		f.code = f.code<<8 | uint16(p[0])
		f.codeLen++
		f.left--
		p = p[1:]
	default:
		n := min(f.left, uint64(len(p)))
		f.left -= n
		p = p[n:]
	}
	if f.extension == 0 && f.mask == 0 && f.left == 0 {
		f.head = 0
		f.closed = f.closed || f.op == opClose
	}
	return p
}

// secondByte reads the length of a frame.
func (f *frames) secondByte(b byte) {
	f.head = 2
	if b&0x80 != 0 { // a server must not mask, but the length is clear all the same
		f.mask = 4
	}
	switch length := b & 0x7f; length {
	case 126:
		f.extension = 2
	case 127:
		f.extension = 8
	default:
		f.left = uint64(length)
	}
}

// closeCode is the status code of the close frame that went out: 1005 if it had none, 1006 if there
// was no close frame (RFC 6455 section 7.4.1).
func (f *frames) closeCode() int {
	switch {
	case !f.closed:
		return 1006
	case f.codeLen < 2:
		return 1005
	}
	return int(f.code)
}
