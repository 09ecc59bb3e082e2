package audit

import "unicode/utf8"

// decode undoes all encoding in one pass: a byte that completes an escape
// takes its place, and may complete another.
func (f *finder) decode(s string) {
	b := make([]byte, 0, len(s))
	f.at = make([]int32, 0, len(s)+1)
	for i := 0; i < len(s); i++ {
		b, f.at = append(b, s[i]), append(f.at, int32(i))
		for {
			n := len(b)
			c, size := byte(0), 0
			switch {
			case n >= 3 && b[n-3] == '%' && isHex(b[n-2]) && isHex(b[n-1]):
				c, size = unhex(b[n-2])<<4|unhex(b[n-1]), 3
			case n >= 6 && b[n-6] == '\\' && b[n-5] == 'u' && b[n-4] == '0' && b[n-3] == '0' && isHex(b[n-2]) && isHex(b[n-1]):
				c, size = unhex(b[n-2])<<4|unhex(b[n-1]), 6
			case n >= 3 && b[n-3] == 0xef && (b[n-2] == 0xbc || b[n-2] == 0xbd):
				if r, _ := utf8.DecodeRune(b[n-3:]); r >= 0xff01 && r <= 0xff5e {
					c, size = byte(r-0xff01+'!'), 3
				}
			}
			if size == 0 {
				break
			}
			b = append(b[:n-size], c)
			f.at = f.at[:n-size+1]
		}
	}
	f.v, f.at = string(b), append(f.at, int32(len(s)))
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}
