// Package servers starts and stops real servers for tests, and puts a proxy with faults in front of
// them: Redis, PostgreSQL. Each runs on a free port of the loopback interface and in a directory
// that the test gives it, is known by the process that was started and by nothing else, and does
// not outlive the test binary, however that ends (on Linux; elsewhere Close must be reached).
//
// A binary that is not installed is a [*MissingError], which says how to get it; [Skip] is what a
// test does about it.
package servers
