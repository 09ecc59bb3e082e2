package tickets

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
)

// The first byte of a sealed grant is the version of its format. Version 1: a random nonce, and the
// encoded grant under AES-256-GCM with the version as additional data.
const (
	sealVersion = 1
	sealPurpose = "ticketgate sealed grant v1"
	sealKeySize = 32
)

var errNotSealed = errors.New("not a grant that was sealed under this ticket")

// Seal encrypts a grant for a store outside this process: with AES-256-GCM, under a key that HKDF
// (RFC 5869) derives from the ticket. The store holds only the ticket's hash, so a reader of the
// store can open nothing. Sealing one grant twice gives different bytes.
//
// The zero Key, and the key of an empty ticket, seal nothing: the result is nil, which never opens.
func (k Key) Seal(g Grant) []byte {
	aead, err := k.aead()
	if err != nil {
		return nil
	}
	version := []byte{sealVersion}
	plain := appendGrant(make([]byte, 0, grantSize(&g)), &g)
	out := make([]byte, 1, 1+aead.Overhead()+len(plain))
	out[0] = sealVersion
	return aead.Seal(out, nil, plain, version)
}

// Open decrypts what Seal made under the key of the same ticket, and refuses everything else: an
// altered byte, another ticket's grant, another version. Times come back in UTC and without a
// monotonic reading, exact to the nanosecond. It never panics, whatever b holds.
func (k Key) Open(b []byte) (Grant, error) {
	if len(b) == 0 {
		return Grant{}, fmt.Errorf("open grant of 0 bytes: %w", errNotSealed)
	}
	if b[0] != sealVersion {
		return Grant{}, fmt.Errorf("open grant of version %d, want %d: %w",
			b[0], sealVersion, errNotSealed)
	}
	aead, err := k.aead()
	if err != nil {
		return Grant{}, fmt.Errorf("open grant: %w", err)
	}
	plain, err := aead.Open(nil, nil, b[1:], b[:1])
	if err != nil {
		return Grant{}, fmt.Errorf("open grant of %d bytes: %w", len(b), errNotSealed)
	}
	var g Grant
	if err := g.decode(plain); err != nil {
		return Grant{}, fmt.Errorf("open grant of %d bytes: %w", len(b), err)
	}
	return g, nil
}

func (k Key) aead() (cipher.AEAD, error) {
	if k.ticket() == "" {
		return nil, errors.New("the key is of no ticket")
	}
	// Only the second half of HKDF: a ticket encodes 256 random bits, which need no extraction
	// (RFC 5869, section 3.3).
	derived, err := hkdf.Expand(sha256.New, []byte(k.ticket()), sealPurpose, sealKeySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	// A random nonce, although the key belongs to one ticket: a store may seal two grants under one
	// ticket, and a repeated nonce would reveal both.
	return cipher.NewGCMWithRandomNonce(block)
}
