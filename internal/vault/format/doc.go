// Package format is the part of a vault's format that needs no store: names of packs, places of
// chunks, the bytes of a pack and its table, the keys and nonces of objects, and the errors of
// reading them. FORMAT.md of internal/vault describes each byte.
//
// Callers are internal/vault and internal/vault/index. Nothing here does I/O or starts a goroutine;
// all functions are pure, and values may be shared between goroutines.
package format
