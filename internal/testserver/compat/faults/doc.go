// Package faults breaks the stores that servers share, again and again, while tickets are put and
// taken, and checks that none is accepted twice: it records every call and answer of every node,
// and porcupine checks the history. It has tests only.
//
// FAULT_CYCLES is how many faults the test of each store makes. Default: as many as CI has time
// for.
package faults
