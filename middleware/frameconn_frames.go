package middleware

import "bytes"

// frames follows what a server sends on a hijacked connection, only as far as
// is needed to know where one WebSocket frame ends and the next may begin
// (RFC 6455 section 5.2). Payloads are never looked at, but for the two bytes
// of a close frame's status code.
type frames struct {
	left   uint64 // payload bytes of the current frame that are still to come
	status uint16 // of the HTTP response
	code   uint16 // of the close frame that went out
	seen   uint16 // bytes of the status line
	phase  phase
	op     uint8 // opcode of the current frame
	head   uint8 // bytes of the two that every frame has
	ext    uint8 // bytes of the extended length that are still to come
	mask   uint8 // bytes of the masking key that are still to come
	coded  uint8 // bytes of code that are there
	line   bool  // the current line of the HTTP response is not empty
	closed bool  // a close frame has gone out, whole; only the first one counts
}

type phase uint8

const (
	phaseStart    phase = iota // nothing sent yet: the first byte tells
	phaseResponse              // inside the head of an HTTP response
	phaseFrames
	phaseOther // an HTTP answer that switches to nothing: there are no frames
)

const opClose = 8

// Where in its line the status of an HTTP response stands.
const (
	statusAt  = uint16(len("HTTP/1.1 "))
	statusEnd = statusAt + 3
)

// begin decides what the first byte b starts. Some libraries write their HTTP
// response through the connection they have hijacked, others before. An H
// cannot begin a frame: it would be a fragmented control frame.
func (f *frames) begin(b byte) {
	if b == 'H' {
		*f = frames{phase: phaseResponse}
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

// next follows p up to the first boundary in it, or to its end, and returns how
// far that is: at least one byte of a p that is not empty.
func (f *frames) next(p []byte) int {
	n := len(p)
	if n > 0 && f.phase == phaseStart {
		f.begin(p[0])
	}
	switch f.phase {
	case phaseResponse:
		for i := 0; i < n; i++ {
			if f.response(p[i]) {
				return i + 1
			}
			if f.seen == statusEnd && f.line { // nothing more matters in this line
				end := bytes.IndexByte(p[i:], '\n')
				if end < 0 {
					return n
				}
				i += end - 1
			}
		}
		return n
	case phaseFrames:
		rest := p
		for len(rest) > 0 {
			rest = f.frame(rest)
			if f.head == 0 {
				return n - len(rest)
			}
		}
	}
	return n
}

// response follows one byte of the head of an HTTP response, and reports
// whether it was the last.
func (f *frames) response(b byte) bool {
	if at := f.seen; at < statusEnd {
		if at >= statusAt {
			f.status = f.status*10 + uint16(b-'0')
		}
		f.seen++
	}
	switch {
	case b != '\n':
		f.line = f.line || b != '\r'
		return false
	case f.line:
		f.line = false
		return false
	}
	switch {
	case f.status == 101:
		*f = frames{phase: phaseFrames}
	case f.status >= 100 && f.status < 200: // 103 and its like come before the answer
		*f = frames{phase: phaseStart}
	default:
		f.phase = phaseOther
	}
	return true
}

// frame follows the current frame in p, which is not empty, and returns what is
// left of p. When the frame has ended, head is 0.
func (f *frames) frame(p []byte) []byte {
	switch {
	case f.head == 0:
		f.op = p[0] & 0x0f
		f.head = 1
		return p[1:]
	case f.head == 1:
		f.head = 2
		if p[0]&0x80 != 0 { // a server must not mask, but the length of it is clear
			f.mask = 4
		}
		switch length := p[0] & 0x7f; length {
		case 126:
			f.ext = 2
		case 127:
			f.ext = 8
		default:
			f.left = uint64(length)
		}
		p = p[1:]
	case f.ext > 0:
		f.left = f.left<<8 | uint64(p[0])
		f.ext--
		p = p[1:]
	case f.mask > 0:
		f.mask--
		p = p[1:]
	case f.op == opClose && f.coded < 2 && !f.closed:
		f.code = f.code<<8 | uint16(p[0])
		f.coded++
		f.left--
		p = p[1:]
	default:
		n := min(f.left, uint64(len(p)))
		f.left -= n
		p = p[n:]
	}
	if f.ext == 0 && f.mask == 0 && f.left == 0 {
		f.head = 0
		f.closed = f.closed || f.op == opClose
	}
	return p
}

// closeCode is the status code of the close frame that went out: 1005 where
// there was none in it, 1006 where there was no such frame (RFC 6455 section 7.4.1).
func (f *frames) closeCode() int {
	switch {
	case !f.closed:
		return 1006
	case f.coded < 2:
		return 1005
	}
	return int(f.code)
}
