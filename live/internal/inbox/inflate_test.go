package inbox

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// deflated is a message as a client compresses it.
type deflated struct {
	level  int
	flush  int  // a flush after so many bytes; 0: none but at the end
	blocks int  // a last block after so many bytes (RFC 7692, section 7.2.3.4); 0: none
	final  bool // it ends with a last block and the byte of an empty one
}

func (d deflated) of(payload string) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, d.level)
	if err != nil {
		panic(err)
	}
	for from := 0; from < len(payload); {
		to := len(payload)
		for _, every := range []int{d.flush, d.blocks} {
			if every > 0 {
				to = min(to, (from/every+1)*every)
			}
		}
		io.WriteString(w, payload[from:to])
		switch from = to; {
		case d.blocks > 0 && to%d.blocks == 0 && to < len(payload):
			w.Close()
			w, _ = flate.NewWriterDict(&out, d.level, []byte(payload[max(to-32<<10, 0):to])) // the window lasts for the message
		case d.flush > 0 && to%d.flush == 0:
			w.Flush()
		}
	}
	if d.final {
		w.Close()
		return append(out.Bytes(), 0)
	}
	w.Flush()
	return bytes.TrimSuffix(out.Bytes(), []byte("\x00\x00\xff\xff"))
}

// inflate returns the message. If it is invalid, inflate returns the close code for the client.
func inflate(compressed []byte, limit int) (string, int) {
	m := &Message{Data: bytes.Clone(compressed), Compressed: true}
	_, err := m.Inflate(limit)
	var broken *ProtocolError
	switch {
	case errors.As(err, &broken):
		return "", broken.Code
	case err != nil || m.Compressed:
		return "", -1
	}
	return string(m.Data), 0
}

// payloads are texts that compress well, badly and not at all.
func payloads() map[string]string {
	random := rand.New(rand.NewPCG(5, 6))
	noise := make([]byte, 40_000)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	return map[string]string{
		"nothing": "", "a byte": "x", "a word": "Hello", "1,023 bytes": strings.Repeat("x", 1023), "1,024 bytes": strings.Repeat("x", 1024), "1,025 bytes": strings.Repeat("x", 1025),
		"noise": string(noise), "text": strings.Repeat(`{"topic":"a","data":"lorem ipsum"},`, 2000),
		"far repetition": string(noise[:32<<10]) + string(noise[:32<<10]),
	}
}

func TestInflateIsTheInverseOfDeflate(t *testing.T) {
	cases := 0
	for name, payload := range payloads() {
		for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
			for _, d := range []deflated{
				{level: level}, {level: level, final: true},
				{level: level, flush: max(len(payload)/3, 1)}, {level: level, blocks: max(len(payload)/3, 1)},
				{level: level, blocks: max(len(payload)/5, 1), flush: max(len(payload)/7, 1), final: true},
			} {
				if len(payload) > 1<<15 && (level > 1 && level < 9) {
					continue
				}
				compressed := d.of(payload)
				if got, code := inflate(compressed, plenty); code != 0 || got != payload {
					t.Errorf("%s, %+v: %d bytes, code %d, want %d bytes", name, d, len(got), code, len(payload))
				}
				if got, code := inflate(compressed, len(payload)); code != 0 || got != payload {
					t.Errorf("%s, %+v, the limit exact: code %d", name, d, code)
				}
				if len(payload) > 0 {
					if _, code := inflate(compressed, len(payload)-1); code != codeTooBig {
						t.Errorf("%s, %+v, the limit one less: code %d", name, d, code)
					}
				}
				cases++
			}
		}
	}
	t.Log(3*cases, "cases")
}

// These are the examples of RFC 7692, section 7.2.3.
func TestExamplesOfTheRFC(t *testing.T) {
	for _, example := range []struct {
		section, in, want string
	}{
		{"7.2.3.1", "\xf2\x48\xcd\xc9\xc9\x07\x00", "Hello"},
		{"7.2.3.3, no compression", "\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "Hello"},
		{"7.2.3.4, BFINAL", "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello"},
		{"7.2.3.5, two blocks", "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello"},
		{"7.2.3.6, an empty fragment", "\x00", ""},
	} {
		if got, code := inflate([]byte(example.in), plenty); got != example.want || code != 0 {
			t.Errorf("%s: %q, code %d", example.section, got, code)
		}
	}
	// Section 7.2.3.2 refers to the message before, which this server never lets a client do.
	if got, code := inflate([]byte("\xf2\x00\x11\x00\x00"), plenty); code != codeInvalid {
		t.Errorf("7.2.3.2: %q, code %d", got, code)
	}
	// In fragments, as section 7.2.3.1 has them.
	h := read(Options{ReadLimit: plenty, Compressed: true}, nil, []byte("\x41\x83\x00\x00\x00\x00\xf2\x48\xcd\x80\x84\x00\x00\x00\x00\xc9\xc9\x07\x00"))
	if got, code := inflate([]byte(h.messages[0]), plenty); got != "Hello" || code != 0 || !h.flags[0] {
		t.Errorf("in fragments: %q, code %d", got, code)
	}
}

func TestWhatIsNotDeflate(t *testing.T) {
	for name, in := range map[string]string{
		"nothing at all":                      "", // an empty message is a byte
		"text":                                `{"topic":"x"}`,
		"block type 3":                        "\x06\x00\x00",
		"a wrong length":                      "\x00\x05\x00\xfa\xfeHello\x00",
		"a reference to before the beginning": "\xf2\x00\x11\x00\x00",
		"the tail was not left out":           "\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff",
		"nothing after a last block":          "\xf3\x48\xcd\xc9\xc9\x07\x00",
	} {
		if got, code := inflate([]byte(in), plenty); code != codeInvalid {
			t.Errorf("%s: %q, code %d", name, got, code)
		}
	}
	// A message that was sent with its tail is valid too.
	if got, code := inflate([]byte("\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff\x00"), plenty); got != "Hello" || code != 0 {
		t.Errorf("with two tails: %q, code %d", got, code)
	}
}

// A message that was cut is not taken for a shorter message. Either it is not deflate, or the
// output is not JSON.
func TestMessageThatWasCut(t *testing.T) {
	texts := []string{
		`"Hello"`, `{"topic":"chat","data":{"text":"hello, world","n":[1,2,3]}}`, `12345678`, `[` + strings.Repeat(`"lorem ipsum",`, 100) + `1]`,
	}
	random := rand.New(rand.NewPCG(7, 8))
	long := make([]byte, 500)
	for i := range long {
		long[i] = byte('a' + random.IntN(26))
	}
	texts = append(texts, `"`+string(long)+`"`)
	cases, decoded := 0, 0
	for _, text := range texts {
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, flate.BestSpeed, flate.BestCompression} {
			for _, d := range []deflated{{level: level}, {level: level, final: true}, {level: level, blocks: max(len(text)/3, 5)}} {
				if d.blocks > 0 && text[0] == '1' {
					continue // half a number is one too, and may be all of a block
				}
				compressed := d.of(text)
				for n := range compressed {
					got, code := inflate(compressed[:n], plenty)
					cases++
					if code != 0 {
						continue
					}
					decoded++
					// The last byte of all may be an empty block's: without it nothing is missing.
					if got != text && json.Valid([]byte(got)) {
						t.Errorf("%+v: of %d bytes %d were decoded to %q", d, len(compressed), n, got)
					}
				}
			}
		}
	}
	t.Log(cases, "cases, of which", decoded, "were deflate")
}

// Last blocks may stand in the middle of a message. Later blocks may refer to the blocks before.
func TestManyLastBlocks(t *testing.T) {
	for n := range 30 {
		in := strings.Repeat("\xf3\x48\xcd\xc9\xc9\x07\x00", n) + "\x00"
		if got, code := inflate([]byte(in), plenty); code != 0 || got != strings.Repeat("Hello", n) {
			t.Errorf("%d last blocks: %q, code %d", n, got, code)
		}
	}
}

// A message that inflates to very many bytes takes no more memory than a message of ReadLimit.
// That bounds its time too.
func TestBombsAreBounded(t *testing.T) {
	zeros := func(n int) []byte { return deflated{level: flate.BestCompression}.of(strings.Repeat("\x00", n)) }
	bomb := zeros(8 << 20)
	chain := bytes.Repeat(append(zeros(1<<20), 0, 0, 0xff, 0xff), 40)
	for name, in := range map[string][]byte{"one": bomb, "a chain of blocks": chain, "noise after it": append(slices.Clone(bomb), "noise"...)} {
		for _, limit := range []int{1, 1000, 100_000, 4 << 20} {
			inflate(in, 10) // so that the pool is filled
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			_, code := inflate(in, limit)
			runtime.ReadMemStats(&after)
			took := int(after.TotalAlloc - before.TotalAlloc)
			if code != codeTooBig {
				t.Errorf("%s, limit %d: code %d", name, limit, code)
			}
			// Sizes double, so the outputs that became too small are as much again. The input was
			// cloned too.
			if most := 3*limit + len(in) + 100_000; took > most {
				t.Errorf("%s, limit %d: %d bytes were allocated, want %d at most", name, limit, took, most)
			}
		}
	}
	t.Logf("%d bytes become %d", len(bomb), 8<<20)
}

// After a message that is invalid, the same decompressor is used for the next message.
func TestInflaterIsUsedAgain(t *testing.T) {
	good := deflated{level: 6}.of(`{"topic":"t"}`)
	for i := range 1000 {
		bad := slices.Clone(good)
		bad[i%len(bad)] ^= byte(1 + i%255)
		inflate(bad, []int{plenty, 3}[i%2])
		if got, code := inflate(good, plenty); got != `{"topic":"t"}` || code != 0 {
			t.Fatalf("%q, code %d", got, code)
		}
	}
	if got := inflaters.Get().(*inflater); got.data != nil || got.out != nil {
		t.Errorf("it keeps %d bytes of the message, and %d of its output", len(got.data), len(got.out))
	}
}

func TestSmallCompressedMessageAllocatesLittle(t *testing.T) {
	in := deflated{level: 6}.of(`{"topic":"t","data":1}`)
	m := new(Message)
	allocs := testing.AllocsPerRun(100, func() {
		m.Data, m.Compressed = in, true
		if _, err := m.Inflate(plenty); err != nil {
			t.Fatal(err)
		}
	})
	// The output is one allocation. Under -race there may be a decompressor too, because sync.Pool
	// drops one of four.
	if allocs > 1 && !withRace || allocs > 5 {
		t.Errorf("%v allocations", allocs)
	}
	if cap(m.Data) > 2<<10 {
		t.Errorf("%d bytes of memory for %d", cap(m.Data), len(m.Data))
	}
}

// blocks writes deflate by hand (RFC 1951), also such that no compressor makes.
type blocks struct {
	bytes []byte
	next  uint64
	n     uint
}

// put writes n bits, the lowest first.
func (b *blocks) put(value uint64, n uint) {
	b.next |= value << b.n
	for b.n += n; b.n >= 8; b.n -= 8 {
		b.bytes = append(b.bytes, byte(b.next))
		b.next >>= 8
	}
}

// end returns the message. It adds an empty block without its last four bytes.
func (b *blocks) end() []byte {
	b.put(0, 3)
	b.put(0, (8-b.n)%8)
	return b.bytes
}

// code is the code of a symbol, for put.
type code struct {
	bits   uint64
	length uint
}

func (b *blocks) putCode(c code) { b.put(c.bits, c.length) }

// codesOf returns the codes for these lengths (section 3.2.2).
func codesOf(lengths []int) []code {
	codes := make([]code, len(lengths))
	value := 0
	for n := 1; n <= 15; n++ {
		for symbol, length := range lengths {
			if length == n {
				reversed := uint64(0)
				for i := range n {
					reversed |= uint64(value>>i&1) << (n - 1 - i)
				}
				codes[symbol] = code{reversed, uint(n)}
				value++
			}
		}
		value <<= 1
	}
	return codes
}

// tables begins a block with tables of its own, in few bytes.
func (b *blocks) tables(literals, distances []int) {
	type length struct {
		symbol int
		more   uint64
		bits   uint
	}
	var lengths []length
	all := slices.Concat(literals, distances)
	for i := 0; i < len(all); {
		times := 1
		for i+times < len(all) && all[i+times] == all[i] {
			times++
		}
		switch {
		case all[i] == 0 && times >= 11:
			times = min(times, 138)
			lengths = append(lengths, length{18, uint64(times - 11), 7})
		case all[i] == 0 && times >= 3:
			lengths = append(lengths, length{17, uint64(times - 3), 3})
		case i > 0 && all[i] == all[i-1] && times >= 3:
			times = min(times, 6)
			lengths = append(lengths, length{16, uint64(times - 3), 2})
		default:
			times = 1
			lengths = append(lengths, length{all[i], 0, 0})
		}
		i += times
	}
	b.put(2<<1, 3)
	b.put(uint64(len(literals)-257), 5)
	b.put(uint64(len(distances)-1), 5)
	b.put(uint64(len(lengthOrder)-4), 4)
	own := []int{4, 4, 4, 5, 5, 5, 5, 5, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4}
	for _, symbol := range lengthOrder {
		b.put(uint64(own[symbol]), 3)
	}
	codes := codesOf(own)
	for _, l := range lengths {
		b.putCode(codes[l.symbol])
		b.put(l.more, l.bits)
	}
}

// randomLengths returns the lengths of a complete code for a number of symbols.
func randomLengths(random *rand.Rand, symbols, used, longest int) []int {
	leaves := []int{0}
	for len(leaves) < used {
		i := random.IntN(len(leaves))
		if random.IntN(2) == 0 {
			i = len(leaves) - 1 // a deep one
		}
		if leaves[i] < longest {
			leaves[i]++
			leaves = append(leaves, leaves[i])
		}
	}
	lengths := make([]int, symbols)
	for i, symbol := range random.Perm(symbols)[:used] {
		lengths[symbol] = leaves[i]
	}
	return lengths
}

// With any tables, the output is the same as that of compress/flate.
func TestInflateReadsAnyTables(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 10))
	ended := make(map[int]int)
	for range 3000 {
		var b blocks
		size := 0 // of the output
		for range 1 + random.IntN(4) {
			literals := randomLengths(random, 257+random.IntN(30), 2+random.IntN(256), 15)
			for literals[endOfBlock] == 0 {
				random.Shuffle(len(literals), func(i, j int) { literals[i], literals[j] = literals[j], literals[i] })
			}
			distances := randomLengths(random, 30, 2+random.IntN(29), 15)
			b.tables(literals, distances)
			codes, far := codesOf(literals), codesOf(distances)
			for range random.IntN(300) {
				symbol, distance := random.IntN(len(codes)), random.IntN(len(far))
				switch {
				case codes[symbol].length == 0 || symbol == endOfBlock || symbol > endOfBlock && far[distance].length == 0:
				case symbol < endOfBlock:
					b.putCode(codes[symbol])
					size++
				case int(leastDistance[distance]) <= size || random.IntN(1000) == 0: // seldom before the beginning
					more := random.Uint64N(1 << lengthBits[symbol-firstLength])
					b.putCode(codes[symbol])
					b.put(more, uint(lengthBits[symbol-firstLength]))
					back := max(size-int(leastDistance[distance]), 0)
					b.putCode(far[distance])
					b.put(random.Uint64N(min(1<<distanceBits[distance], uint64(back)+1)), uint(distanceBits[distance]))
					size += int(leastLength[symbol-firstLength]) + int(more)
				}
			}
			b.putCode(codes[endOfBlock])
		}
		in := b.end()
		if random.IntN(10) == 0 {
			in = in[:random.IntN(len(in))]
		}
		if random.IntN(10) == 0 {
			in[random.IntN(len(in))] ^= 1 << random.IntN(8)
		}
		limit := []int{plenty, random.IntN(3000)}[random.IntN(2)]
		got, code := inflate(in, limit)
		want, wantCode := oracle(in, limit)
		ended[code]++
		if got != want || code != wantCode {
			t.Fatalf("%x, limit %d: %d bytes, code %d; want %d bytes, code %d", in, limit, len(got), code, len(want), wantCode)
		}
	}
	for _, code := range []int{0, codeInvalid, codeTooBig} {
		if ended[code] < 100 {
			t.Errorf("how they ended: %v", ended)
		}
	}
}

// manyTables returns a message of about a given size that consists of tables.
func manyTables(size int, tables func() (literals, distances []int)) (in []byte, n int) {
	var b blocks
	literals, distances := tables()
	end := codesOf(literals)[endOfBlock]
	for ; len(b.bytes) < size; n++ {
		b.tables(literals, distances)
		b.putCode(end)
	}
	return b.end(), n
}

// smallTables cost the client least to send. deepTables cost the server most to build.
func smallTables() (literals, distances []int) {
	literals = make([]int, 257)
	literals[endOfBlock] = 1
	return literals, []int{1}
}

func deepTables() (literals, distances []int) {
	literals = make([]int, 286)
	for i := range literals {
		switch {
		case i < 23:
			literals[i] = 0
		case i < 278:
			literals[i] = 10
		default:
			literals[i] = []int{11, 12, 13, 14, 15, 15, 1, 2}[i-278]
		}
	}
	return literals, []int{1}
}

// The tables that a client sends count for the time that they cost, and take no memory.
func TestTablesOfBlocksCount(t *testing.T) {
	for name, tables := range map[string]func() (literals, distances []int){"small": smallTables, "deep": deepTables} {
		t.Run(name, func(t *testing.T) {
			in, n := manyTables(100_000, tables)
			if want, code := oracle(in, plenty); code != 0 || want != "" {
				t.Fatalf("it is not deflate: %d", code)
			}
			m := &Message{Data: in, Compressed: true}
			before := allocated()
			cost, err := m.Inflate(plenty)
			took := allocated() - before
			if err != nil || len(m.Data) > 0 {
				t.Fatalf("%d bytes, %v", len(m.Data), err)
			}
			if want := len(in) + n*tablesCost; cost != want {
				t.Errorf("%d tables in %d bytes cost %d, want %d", n, len(in), cost, want)
			}
			if took > 20_000 {
				t.Errorf("%d bytes were allocated", took)
			}
		})
	}
}

// A message of a compressor counts for its size: before or after compression, whichever is larger.
func TestHonestMessageCostsItsSize(t *testing.T) {
	for name, payload := range payloads() {
		for level := flate.HuffmanOnly; level <= flate.BestCompression; level++ {
			in := deflated{level: level}.of(payload)
			m := &Message{Data: in, Compressed: true}
			cost, err := m.Inflate(plenty)
			most := max(len(payload), len(in))
			if len(payload) < 10_000 || name == "noise" || name == "far repetition" {
				most += tablesCost
			}
			if err != nil || cost > most || cost < max(len(payload), len(in)) {
				t.Errorf("%s, level %d: %d bytes from %d cost %d (%v)", name, level, len(payload), len(in), cost, err)
			}
		}
	}
}
