package inbox

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// Messages are not decompressed with compress/flate, because a block of deflate can cost much there.
// A block may consist of its Huffman tables alone, in 30 bytes. compress/flate takes 7 µs and 20 KB
// of memory for such a block, and does not tell its caller how many there were. Here tables take no
// extra memory, and they are counted. Besides, the whole message lies in memory, so no window has to
// be kept and copied.

// deflateTail ends a compressed message. It has the four bytes that the sender left out (RFC
// 7692, section 7.2.2), and an empty last block. If that block is missing, the message was cut.
var deflateTail = []byte("\x00\x00\xff\xff\x01\x00\x00\xff\xff")

const (
	// inflateStep is the first size of the output. It is enough for small messages.
	inflateStep = 1 << 10

	// tablesCost is how many bytes of payload the Huffman tables of a block count for. To build
	// them takes a microsecond, and the client's rate bounds how often the server does that. An
	// honest client does not notice: a compressor makes new tables after 10 KB or more, and so
	// much output counts for more than the tables.
	tablesCost = 256
)

var (
	errNotDeflate = &ProtocolError{codeInvalid, "a message that is not deflate"}
	errInflated   = &ProtocolError{codeTooBig, "a message that is larger than ReadLimit"}
)

// Inflate decompresses a message that is Compressed. cost is how many bytes of payload the work
// counts for. The error is a *ProtocolError: the message is not deflate, was cut, or is larger than
// limit.
func (m *Message) Inflate(limit int) (cost int, err error) {
	in := inflaters.Get().(*inflater)
	defer inflaters.Put(in)
	defer in.reset()
	in.data, in.tail = m.Data, deflateTail
	in.out, in.limit = make([]byte, 0, min(inflateStep, limit)), limit
	if err := in.all(); err != nil {
		return 0, err
	}
	cost = max(len(in.out), len(m.Data)+in.tables*tablesCost)
	m.Data, m.Compressed = in.out, false
	return cost, nil
}

// inflater decompresses one message (RFC 1951). It has 5 KB of tables. So there are only as many
// inflaters as goroutines that decompress at the same time.
type inflater struct {
	bitReader
	out    []byte
	limit  int // how many bytes out may have
	tables int // how many blocks had tables of their own

	lengths   [maxLiterals + maxDistances]uint8 // of the codes of both tables
	literals  huffman                           // while lengths are read, this is the table of their codes
	distances huffman
}

var inflaters = sync.Pool{New: func() any { return new(inflater) }}

// reset drops all references to the message.
func (in *inflater) reset() {
	in.bitReader = bitReader{}
	in.out, in.tables = nil, 0
}

// all decompresses all blocks. A block that says that it is the last may stand in the middle (RFC
// 7692, section 7.2.3.4).
func (in *inflater) all() error {
	for {
		last, err := in.block()
		if err != nil {
			return err
		}
		if last {
			in.align()
			if in.atEnd() {
				return nil
			}
		}
	}
}

// block decompresses one block (RFC 1951, section 3.2.3).
func (in *inflater) block() (last bool, err error) {
	header, ok := in.take(3)
	if !ok {
		return false, errNotDeflate
	}
	switch header >> 1 {
	case 0:
		err = in.stored()
	case 1:
		err = in.coded(&fixedLiterals, &fixedDistances)
	case 2:
		if !in.readTables() {
			return false, errNotDeflate
		}
		in.tables++
		err = in.coded(&in.literals, &in.distances)
	default:
		err = errNotDeflate
	}
	return header&1 == 1, err
}

// stored copies a block that is not compressed (section 3.2.4).
func (in *inflater) stored() error {
	in.align()
	both, ok := in.take(32)
	left := int(both & 0xffff)
	if !ok || both>>16 != uint64(left^0xffff) {
		return errNotDeflate
	}
	for ; left > 0 && in.n > 0; left-- {
		c, _ := in.take(8)
		if err := in.append(byte(c)); err != nil {
			return err
		}
	}
	for left > 0 {
		b := in.rest(left)
		if len(b) == 0 {
			return errNotDeflate
		}
		if err := in.reserve(len(b)); err != nil {
			return err
		}
		in.out = append(in.out, b...)
		left -= len(b)
	}
	return nil
}

// append appends a byte to the output.
func (in *inflater) append(b byte) error {
	if len(in.out) == cap(in.out) {
		if err := in.reserve(1); err != nil {
			return err
		}
	}
	in.out = append(in.out, b)
	return nil
}

// reserve makes space for n more bytes of output.
func (in *inflater) reserve(n int) error {
	size := len(in.out)
	if n <= cap(in.out)-size {
		return nil
	}
	if n > in.limit-size {
		return errInflated
	}
	grown := make([]byte, size, min(max(2*size, size+n), in.limit))
	copy(grown, in.out)
	in.out = grown
	return nil
}

// These are the symbols of a block's codes (section 3.2.5).
const (
	maxLiterals  = 286 // how many symbols there are for literals, the end of the block, and lengths
	maxDistances = 30
	endOfBlock   = 256
	firstLength  = 257
)

// A length or distance is the sum of a least value, which depends on the symbol, and of some bits
// that follow.
var (
	leastLength = [maxLiterals - firstLength]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59,
		67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthBits = [maxLiterals - firstLength]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3,
		4, 4, 4, 4, 5, 5, 5, 5, 0}
	leastDistance = [maxDistances]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769,
		1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	distanceBits = [maxDistances]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8,
		9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
)

// coded decompresses a block with Huffman codes to its end.
func (in *inflater) coded(literals, distances *huffman) error {
	for {
		symbol := in.symbol(literals)
		switch {
		case symbol < 0:
			return errNotDeflate
		case symbol < endOfBlock:
			if err := in.append(byte(symbol)); err != nil {
				return err
			}
		case symbol == endOfBlock:
			return nil
		case symbol >= maxLiterals:
			return errNotDeflate
		default:
			if err := in.repeat(symbol-firstLength, distances); err != nil {
				return err
			}
		}
	}
}

// repeat reads the rest of a length, and then a distance. It appends that many bytes of the output
// that lie so far back.
func (in *inflater) repeat(symbol int, distances *huffman) error {
	more, ok := in.take(uint(lengthBits[symbol]))
	length := int(leastLength[symbol]) + int(more)
	far := in.symbol(distances)
	if !ok || far < 0 || far >= maxDistances {
		return errNotDeflate
	}
	more, ok = in.take(uint(distanceBits[far]))
	distance := int(leastDistance[far]) + int(more)
	if !ok || distance > len(in.out) {
		return errNotDeflate
	}
	if err := in.reserve(length); err != nil {
		return err
	}
	from, to := len(in.out)-distance, len(in.out)
	in.out = in.out[:to+length]
	for to < len(in.out) { // if source and target overlap, each copy makes the next twice as long
		to += copy(in.out[to:], in.out[from:to])
	}
	return nil
}

// A block with its own tables tells the length of each code. These lengths are coded too. lengthOrder
// is the order in which the block tells the lengths of the codes for lengths.
var lengthOrder = [...]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// readTables reads the codes of a block that has tables of its own (section 3.2.7).
func (in *inflater) readTables() bool {
	sizes, ok := in.take(5 + 5 + 4)
	literals, distances, ordered := int(sizes&31)+257, int(sizes>>5&31)+1, int(sizes>>10)+4
	if !ok || literals > maxLiterals || distances > maxDistances {
		return false
	}
	var lengths [len(lengthOrder)]uint8
	for _, symbol := range lengthOrder[:ordered] {
		n, ok := in.take(3)
		if !ok {
			return false
		}
		lengths[symbol] = uint8(n)
	}
	return in.literals.build(lengths[:]) &&
		in.readLengths(literals+distances) &&
		in.literals.build(in.lengths[:literals]) &&
		in.distances.build(in.lengths[literals:literals+distances])
}

// readLengths reads n lengths. in.literals has the codes for lengths meanwhile.
func (in *inflater) readLengths(n int) bool {
	for i := 0; i < n; {
		symbol := in.symbol(&in.literals)
		var times, more uint64
		var ok bool
		length := uint8(0)
		switch symbol {
		default:
			in.lengths[i] = uint8(symbol)
			i++
			continue
		case -1:
			return false
		case 16:
			if i == 0 {
				return false
			}
			length = in.lengths[i-1]
			more, ok = in.take(2)
			times = 3 + more
		case 17:
			more, ok = in.take(3)
			times = 3 + more
		case 18:
			more, ok = in.take(7)
			times = 11 + more
		}
		if !ok || int(times) > n-i {
			return false
		}
		for j := range in.lengths[i : i+int(times)] {
			in.lengths[i+j] = length
		}
		i += int(times)
	}
	return true
}

// Codes have up to maxCode bits. A code of up to shortCode bits is found in one step.
const (
	maxCode   = 15
	shortCode = 9
)

// huffman finds the symbols for codes (section 3.2.2).
type huffman struct {
	short     [1 << shortCode]uint16  // the index is the next bits; an entry is a symbol, and the length of its code in the lowest 4 bits
	count     [maxCode + 1]uint16     // how many codes of each length there are
	symbols   [maxLiterals + 2]uint16 // in the order of their codes
	longCode  int                     // the first code that is longer than shortCode
	longIndex int                     // the index in symbols of the symbol of longCode
}

// build makes the tables for codes of these lengths. A length of 0 says that the symbol has no code.
// build reports whether the lengths are valid: all codes are used, or there are no codes, or there is
// a single code of one bit.
func (h *huffman) build(lengths []uint8) bool {
	h.count = [maxCode + 1]uint16{}
	for _, n := range lengths {
		h.count[n]++
	}
	used := len(lengths) - int(h.count[0])
	h.count[0] = 0
	unused := 1 // how many codes of length n belong to no symbol, and do not begin with the code of one
	var place [maxCode + 2]uint16
	for n := 1; n <= maxCode; n++ {
		unused = 2*unused - int(h.count[n])
		if unused < 0 {
			return false
		}
		place[n+1] = place[n] + h.count[n]
	}
	if unused > 0 && used > 0 && (used > 1 || h.count[1] != 1) {
		return false
	}
	for symbol, n := range lengths {
		if n > 0 {
			h.symbols[place[n]] = uint16(symbol)
			place[n]++
		}
	}
	h.fillShort()
	return true
}

// fillShort makes the table of short codes. The table for codes of up to n bits has 2^n entries. Two
// copies of it are the table for n+1 bits, before the codes of n+1 bits are put in.
func (h *huffman) fillShort() {
	h.short[0], h.short[1] = 0, 0
	code, index := 0, 0
	for n := 1; ; n++ {
		for range h.count[n] {
			h.short[bits.Reverse16(uint16(code))>>(16-n)] = h.symbols[index]<<4 | uint16(n)
			code++
			index++
		}
		code <<= 1
		if n == shortCode {
			break
		}
		copy(h.short[1<<n:], h.short[:1<<n])
	}
	h.longCode, h.longIndex = code, index
}

// long finds the symbol for the next bits if their code is longer than shortCode. The symbol is -1 if
// there is no such code.
func (h *huffman) long(next uint64) (symbol int, length uint) {
	code := int(bits.Reverse16(uint16(next)) >> (16 - shortCode))
	first, index := h.longCode, h.longIndex
	for n := shortCode + 1; n <= maxCode; n++ {
		code = code<<1 | int(next>>(n-1)&1)
		count := int(h.count[n])
		if code-first < count {
			return int(h.symbols[index+code-first]), uint(n)
		}
		first, index = (first+count)<<1, index+count
	}
	return -1, 0
}

// These are the codes of blocks without tables of their own (section 3.2.6).
var fixedLiterals, fixedDistances = fixedCodes()

func fixedCodes() (literals, distances huffman) {
	var lengths [maxLiterals + 2]uint8
	for i := range lengths {
		switch {
		case i < 144, i >= 280:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		default:
			lengths[i] = 7
		}
	}
	literals.build(lengths[:])
	for i := range maxDistances + 2 {
		lengths[i] = 5
	}
	distances.build(lengths[:maxDistances+2])
	return literals, distances
}

// bitReader reads the bits of a message and its tail. It begins with the lowest bit of each byte.
type bitReader struct {
	data []byte // bytes that are not in next yet
	tail []byte // comes after data
	next uint64 // the next n bits; the bits above them must not be used
	n    uint   // how many bits of next are valid
}

// fill fills next to 56 bits or more. At the end there may be fewer.
func (r *bitReader) fill() {
	if len(r.data) >= 8 {
		r.next |= binary.LittleEndian.Uint64(r.data) << r.n
		r.data = r.data[(63-r.n)/8:]
		r.n |= 56
		return
	}
	for r.n <= 56 {
		if len(r.data) == 0 {
			if len(r.tail) == 0 {
				return
			}
			r.data, r.tail = r.tail, nil
		}
		r.next |= uint64(r.data[0]) << r.n
		r.data = r.data[1:]
		r.n += 8
	}
}

// take reads n bits, 32 at most. ok is false if there are fewer than n bits.
func (r *bitReader) take(n uint) (value uint64, ok bool) {
	if r.n < n {
		r.fill()
		if r.n < n {
			return 0, false
		}
	}
	value = r.next & (1<<n - 1)
	r.next >>= n
	r.n -= n
	return value, true
}

// symbol reads a code and returns its symbol. It returns -1 if there is no such code, or not enough
// bits.
func (r *bitReader) symbol(h *huffman) int {
	if r.n < maxCode {
		r.fill()
	}
	entry := h.short[r.next&(1<<shortCode-1)]
	symbol, n := int(entry>>4), uint(entry&15)
	if n == 0 {
		symbol, n = h.long(r.next)
	}
	if n > r.n {
		return -1
	}
	r.next >>= n
	r.n -= n
	return symbol
}

// align skips to the next byte.
func (r *bitReader) align() {
	r.next >>= r.n & 7
	r.n &^= 7
}

// rest is called when next is empty. It reads up to n bytes, as many as lie together in memory. At
// the end it returns no bytes.
func (r *bitReader) rest(n int) []byte {
	r.next = 0 // the bits above n are in data too, and would be read twice
	if len(r.data) == 0 {
		r.data, r.tail = r.tail, nil
	}
	b := r.data[:min(n, len(r.data))]
	r.data = r.data[len(b):]
	return b
}

// atEnd is called after align. It reports whether all bits were read.
func (r *bitReader) atEnd() bool { return r.n == 0 && len(r.data) == 0 && len(r.tail) == 0 }
