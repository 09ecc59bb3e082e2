// Package faults breaks the stores that servers share, over and over, while tickets are put and
// taken, and checks that none is accepted twice: by recording what every node asked and was told,
// and handing that to porcupine. It is tests only.
//
// FAULT_CYCLES is how many faults each store's test makes. Default: as many as CI has time for.
package faults
