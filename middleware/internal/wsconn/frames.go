package wsconn

import "encoding/binary"

// frames follows what a server sends on a hijacked connection: only where one WebSocket frame ends
// and the next may begin (RFC 6455 section 5.2). Server frames are not masked, so that their
// lengths are enough. It looks at no payload, but for the status code of a close frame.
type frames struct {
	phase  phase
	blank  bool // in an HTTP head: the line has no bytes so far, but for a carriage return
	closed bool // a close frame has gone out, whole
	code   int  // of the first close frame; 1005: it had none

	// start holds the first bytes of the current HTTP head or frame: a frame's head has at most 14,
	// and the status code behind it two. count is how many of its bytes have been sent.
	start [16]byte
	count uint64
}

type phase uint8

const (
	phaseStart    phase = iota // nothing has been sent: the first byte decides
	phaseResponse              // in the head of an HTTP response
	phaseFrames                // in a stream of frames
	phaseOther                 // in an HTTP answer that does not switch: there are no frames
)

const opClose = 8 // the opcode

// begin decides what p begins, if nothing has been sent. Some libraries write their HTTP response
// through the connection that they have hijacked, others before. No server frame begins with an H:
// it would be a fragmented control frame.
func (f *frames) begin(p []byte) {
	switch {
	case f.phase != phaseStart || len(p) == 0:
	case p[0] == 'H':
		f.phase = phaseResponse
	default:
		f.phase = phaseFrames
	}
}

// boundary reports whether a frame may begin here.
func (f *frames) boundary() bool { return f.phase == phaseFrames && f.count == 0 }

// advance follows p, which has been sent.
func (f *frames) advance(p []byte) {
	for len(p) > 0 {
		p = p[f.next(p):]
	}
}

// next follows p up to the first boundary in it, or to its end, and returns how far that is: at
// least one byte of a p that is not empty.
func (f *frames) next(p []byte) int {
	f.begin(p)
	switch f.phase {
	case phaseResponse:
		for i, b := range p {
			if b == '\n' && f.blank {
				f.add(p[:i+1])
				f.endResponse()
				return i + 1
			}
			f.blank = b == '\n' || b == '\r' && f.blank
		}
		f.add(p)
	case phaseFrames:
		for n := 0; n < len(p); {
			head, payload := f.head()
			part := p[n:][:min(head+payload-f.count, uint64(len(p)-n))]
			f.add(part)
			n += len(part)
			if head, payload = f.head(); f.count == head+payload {
				f.endFrame(head, payload)
				return n
			}
		}
	}
	return len(p)
}

// add counts p, and keeps its first bytes.
func (f *frames) add(p []byte) {
	copy(f.start[min(f.count, uint64(len(f.start))):], p)
	f.count += uint64(len(p))
}

// endResponse decides by its status what follows the head of a response.
func (f *frames) endResponse() {
	status := f.start[len("HTTP/1.1 "):]
	switch {
	case string(status[:3]) == "101":
		*f = frames{phase: phaseFrames}
	case status[0] == '1': // another response follows, as after 103
		*f = frames{}
	default:
		*f = frames{phase: phaseOther}
	}
}

// head returns the length of the head, as far as it is known, and of the payload behind it.
func (f *frames) head() (head, payload uint64) {
	head, payload = 2, uint64(f.start[1]&0x7f)
	switch payload {
	case 126:
		head, payload = 4, uint64(binary.BigEndian.Uint16(f.start[2:]))
	case 127:
		head, payload = 10, binary.BigEndian.Uint64(f.start[2:])
	}
	if f.start[1]&0x80 != 0 { // a server must not mask, but the length is clear all the same
		head += 4
	}
	if f.count < head {
		payload = 0
	}
	return head, payload
}

// endFrame begins the next frame, and notes the code of the first close frame.
func (f *frames) endFrame(head, payload uint64) {
	if f.start[0]&0x0f == opClose && !f.closed {
		f.closed, f.code = true, 1005
		if payload >= 2 {
			f.code = int(binary.BigEndian.Uint16(f.start[head:]))
		}
	}
	f.start, f.count = [16]byte{}, 0
}

// closeCode is 1005 if the close frame had no code, 1006 if none went out (RFC 6455 section 7.4.1).
func (f *frames) closeCode() int {
	if !f.closed {
		return 1006
	}
	return f.code
}
