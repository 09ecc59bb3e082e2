package audit

import "log/slog"

// A knownName is a field's name that was judged before, and stands for itself:
// it is no secret, not reserved, and needs no escape. Programs have few names,
// and looking one up takes less than judging it again.
type knownName struct {
	size uint8    // of the name; 0: there is none
	text [31]byte // ,"name":"
}

const slots = 128

// slot is where a name is looked for.
func slot[T string | []byte](name T) uint {
	if len(name) == 0 {
		return 0
	}
	return (uint(name[0])*13 + uint(name[len(name)-1])*29 + uint(len(name))*5) % slots
}

// know keeps a name of which text is what was written of it.
func (e *encoder) know(name string, text []byte) {
	k := &e.known[slot(name)]
	if n := len(name); len(text) == n+4 && len(text) < len(k.text) && text[0] == ',' && string(text[2:2+n]) == name {
		k.size = uint8(n)
		k.text[copy(k.text[:], text)] = '"'
	}
}

// plainField writes a field, as nearly all are, that has a known name and a
// string in which every byte stands for itself. Of others it writes nothing,
// and returns false.
func (e *encoder) plainField(o *object, a *slog.Attr) bool {
	at := slot(a.Key)
	k, bit := &e.known[at], uint64(1)<<(at%64)
	n := int(k.size)
	if n == 0 || string(k.text[2:2+n]) != a.Key || a.Value.Kind() != slog.KindString ||
		o.seen&bit != 0 || o.n == len(o.few) || !o.notFirst || e.cut {
		return false
	}
	s, start := a.Value.String(), len(e.buf)
	if start+len(k.text)+len(s) > e.limit {
		return false
	}
	if all := meanings(s); all&mustEscape != 0 || hides(s, all) {
		return false
	}
	b := append(e.buf, k.text[:n+5]...)
	b = append(b, s...)
	e.buf = append(b, '"')
	o.seen |= bit
	o.few[o.n] = span{int32(start + 2), int32(start + 2 + n)}
	o.n++
	return true
}
