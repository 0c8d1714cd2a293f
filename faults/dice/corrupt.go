package dice

// CorruptBytes is how many of a payload's first bytes the damaged bit can be in
// (CORRUPT_BYTES_MAX).
const CorruptBytes = 8192

// corruptSalt turns the bits away from the dice of the same seed (CORRUPT_SALT).
const corruptSalt = 0xa0761d6478bd642f

// Bit says which bit of the event with that ordinal is flipped, counted from the
// lowest of the payload's first byte. length is the payload's in bytes, above 0;
// of a segment that is cut up later, that of its first part.
func Bit(seed, ordinal uint64, length int) int {
	bits := uint64(min(length, CorruptBytes)) * 8
	return int(uint64(Random(seed^corruptSalt, ordinal, StreamRate)) * bits >> 32)
}
