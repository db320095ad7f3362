// Package seal turns a chunk's plaintext into the bytes that are
// stored, and back: compression where it pays, then AES-256-GCM.
//
// internal/vault calls it, one Sealer or Opener to a goroutine. Nothing here does I/O or starts a
// goroutine.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Method says how a payload is compressed. The numbers are part of the format.
type Method byte

// The methods.
const (
	Raw     Method = 0
	Zstd    Method = 1 // RFC 8878, without checksum
	S2Block Method = 2 // of S2, an extension of Snappy; its uvarint length comes first
)

// Overhead is how many bytes sealing adds to a payload: the method and GCM's tag (NIST SP 800-38D).
const Overhead = 1 + 16

// ErrOpen says that sealed bytes were changed, moved or cut off since they were sealed,
// or belong to another key.
var ErrOpen = errors.New("does not open: damaged, forged or of another key")

// ErrMethod says that sealed bytes are whole, and compressed by a method that
// this version does not know: a later version sealed them. It is no ErrOpen.
var ErrMethod = errors.New("compressed by a method that this version does not know")

// Level is the effort of compression.
type Level int

// The levels, from cheap to strong. S2 takes a third of the CPU of Fastest and
// stores about 10 % more; the others are levels of zstd. The level of zstd above
// Better would take 14 times the CPU of Fastest, and 35 MiB an encoder, for 3 %.
const (
	S2 Level = iota + 1
	Fastest
	Default
	Better
)

// Levels is the number of levels.
const Levels = int(Better)

var levelNames = [Levels + 1]string{"", "s2", "fastest", "default", "better"}

// String is the level's name.
func (l Level) String() string {
	if l < S2 || l > Better {
		return fmt.Sprintf("level %d", int(l))
	}
	return levelNames[l]
}

// ParseLevel reads what Level.String writes.
func ParseLevel(name string) (Level, error) {
	for l := S2; l <= Better; l++ {
		if levelNames[l] == name {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is not a level of compression: s2, fastest, default, better", name)
}

// Memory is the memory of a Compressor of that level after its first use, in bytes, for
// chunks of up to 256 KiB. Measured.
func (l Level) Memory() int64 {
	switch l {
	case S2:
		return 1 << 19
	case Fastest:
		return 1 << 20
	case Default:
		return 3 << 19
	default:
		return 5 << 20
	}
}

// Compressor compresses chunks. It is for one goroutine.
type Compressor struct {
	enc *zstd.Encoder // nil at level S2
	buf []byte        // for the output; grows to the largest chunk and stays
}

// NewCompressor returns a Compressor of that level for chunks of at most maxChunk bytes.
func NewCompressor(level Level, maxChunk int) (*Compressor, error) {
	if level == S2 {
		return &Compressor{}, nil
	}
	window := zstd.MinWindowSize
	for window < maxChunk && window < zstd.MaxWindowSize {
		window *= 2
	}
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(zstd.EncoderLevel(level-Fastest)+zstd.SpeedFastest),
		zstd.WithWindowSize(window),
		zstd.WithEncoderCRC(false), // GCM's tag covers it
		zstd.WithSingleSegment(true),
		zstd.WithLowerEncoderMem(true),
	)
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder of level %s: %w", level, err)
	}
	return &Compressor{enc: enc}, nil
}

// Compress returns the form of src to store: its compressed form, which is valid until
// the next call, or src itself where compressing saves less than one part in 32 (decoding
// takes time at the restore, and then somebody waits). Both methods give up early on
// content that does not compress, so no cheaper look at the content comes before them.
func (c *Compressor) Compress(src []byte) (Method, []byte) {
	if len(src) < 32 {
		return Raw, src
	}
	method := Zstd
	if c.enc == nil {
		method, c.buf = S2Block, s2.Encode(c.buf[:cap(c.buf)], src)
	} else {
		c.buf = c.enc.EncodeAll(src, c.buf[:0])
	}
	if len(c.buf) >= len(src)-len(src)/32 {
		return Raw, src
	}
	return method, c.buf
}

// NewAEAD returns AES-256-GCM under key.
func NewAEAD(key [32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only for a key of a wrong size
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // never for AES
	}
	return aead
}

// Seal writes the sealed form of payload to dst, which must have exactly len(payload)+Overhead
// bytes and not overlap payload. Under one key a nonce must never be used for two payloads.
//
// The method follows the tag in clear and is part of the additional data. Therefore the cipher
// reads payload where it lies, and nothing copies it in order to put the method before it.
func Seal(aead cipher.AEAD, nonce, aad []byte, m Method, payload, dst []byte) {
	aead.Seal(dst[:0:len(dst)-1], nonce, payload, bind(aad, m))
	dst[len(dst)-1] = byte(m)
}

// bind returns the additional data that binds a payload to its method too.
func bind(aad []byte, m Method) []byte { return append(slices.Clip(aad), byte(m)) }

// OpenPayload opens sealed and appends the payload to dst, compressed as it was stored, and returns
// the method too: with both, Seal makes the same chunk for another place. dst is nil, or sealed[:0]
// for an opening in place, which destroys sealed. It fails with ErrOpen.
func OpenPayload(aead cipher.AEAD, nonce, aad, sealed, dst []byte) (Method, []byte, error) {
	if len(sealed) < Overhead {
		return 0, nil, ErrOpen
	}
	body, method := sealed[:len(sealed)-1], Method(sealed[len(sealed)-1])
	payload, err := aead.Open(dst, nonce, body, bind(aad, method))
	if err != nil {
		return 0, nil, ErrOpen
	}
	return method, payload, nil
}

// decoders are shared: a zstd.Decoder is dear to make, and DecodeAll may run concurrently.
var decoders = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // only for options that contradict each other
	}
	return d
})

// maxRaw bounds the length of the plaintext of one chunk, bytes; the format's limit is below it.
const maxRaw = 128 << 20

// Room is how many bytes behind the plaintext Open may write to in dst's array. With that room the
// decoder copies in steps of 16 bytes and need not look for the end of its buffer at each step.
const Room = 64

// Open opens sealed, destroying it, and returns the plaintext of raw bytes. dst must not overlap
// sealed. The plaintext lies in dst's array where the array has a capacity of at least raw+Room
// bytes. A payload that opens to more or less than raw bytes is ErrOpen, a payload of an unknown
// method is ErrMethod, and for any sealed bytes Open takes at most raw+Room bytes of memory.
func Open(aead cipher.AEAD, nonce, aad, sealed, dst []byte, raw int) ([]byte, error) {
	if len(sealed) < Overhead || raw < 0 || raw > maxRaw {
		return nil, ErrOpen
	}
	to := sealed[:0]
	if Method(sealed[len(sealed)-1]) == Raw {
		// The plaintext is the payload, so the cipher writes it where the caller wants it.
		if n := len(sealed) - Overhead; n != raw {
			return nil, fmt.Errorf("%w: has %d bytes, not %d", ErrOpen, n, raw)
		}
		if cap(dst) < raw {
			dst = make([]byte, 0, raw)
		}
		to = dst[:0]
	}
	method, payload, err := OpenPayload(aead, nonce, aad, sealed, to)
	if err != nil {
		return nil, err
	}
	switch method {
	case Raw:
		return payload, nil
	case Zstd:
		if cap(dst) < raw+Room {
			dst = make([]byte, 0, raw+Room)
		}
		// The decoder stops at the capacity (WithDecodeAllCapLimit).
		out, err := decoders().DecodeAll(payload, dst[:0:raw+Room])
		if err != nil {
			return nil, fmt.Errorf("%w: decompress: %w", ErrOpen, err)
		}
		if len(out) != raw {
			return nil, fmt.Errorf("%w: decompresses to %d bytes, not %d", ErrOpen, len(out), raw)
		}
		return out, nil
	case S2Block:
		// The block says first how much it decompresses to, and takes that much memory.
		if n, err := s2.DecodedLen(payload); err != nil || n != raw {
			return nil, fmt.Errorf("%w: decompresses to %d bytes, not %d", ErrOpen, n, raw)
		}
		if cap(dst) < raw {
			dst = make([]byte, 0, raw+Room)
		}
		out, err := s2.Decode(dst[:cap(dst)], payload)
		if err != nil {
			return nil, fmt.Errorf("%w: decompress: %w", ErrOpen, err)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: method %d", ErrMethod, method)
}
