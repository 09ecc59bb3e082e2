package faults

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/ticketgate/ticketgate/tickets"
	"github.com/ticketgate/ticketgate/tickets/redisstore"
)

// racerEnv is set for the test binary where it runs as one of several processes that race for
// tickets: to the kind of store and where it is, with a space between.
const racerEnv = "FAULTS_RACER"

// racers opens each kind of store for a racer.
var racers = map[string]func(addr string) (tickets.Store, func(), error){
	"redis": func(addr string) (tickets.Store, func(), error) {
		client := redis.NewClient(&redis.Options{Addr: addr})
		store, err := redisstore.New(context.Background(), client, nil)
		return store, func() { client.Close() }, err
	},
}

// racer takes every ticket that it reads, and writes those that it got.
func racer() int {
	kind, addr, _ := strings.Cut(os.Getenv(racerEnv), " ")
	store, end, err := racers[kind](addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer end()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		g, err := store.Take(context.Background(), tickets.Ticket(in.Text()).Key())
		if err == nil {
			fmt.Println(g.UserID)
		}
	}
	fmt.Println("done")
	return 0
}

// raceProcesses has n processes take the same tickets at once: each is to go to one of them.
func raceProcesses(t *testing.T, store tickets.Store, kind, addr string) {
	const processes, each = 4, 2000
	all := make(map[string]bool, each)
	var lines strings.Builder
	for failed := 0; len(all) < each; {
		ticket, g := newTicket()
		if err := store.Put(context.Background(), ticket.Key(), g); err != nil {
			failed++ // a busy machine may be slower than the store's Timeout
			require.Less(t, failed, each/10, "%v", err)
			continue
		}
		all[g.UserID] = true
		lines.WriteString(string(ticket) + "\n")
	}
	var outs []*bufio.Scanner
	var ins []*os.File
	for range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), racerEnv+"="+kind+" "+addr)
		cmd.Stderr = os.Stderr
		read, write, err := os.Pipe() // a file: no goroutine of exec's
		require.NoError(t, err)
		cmd.Stdin = read
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
			read.Close()
			write.Close()
		})
		scanner := bufio.NewScanner(out)
		require.True(t, scanner.Scan())
		require.Equal(t, "ready", scanner.Text())
		ins, outs = append(ins, write), append(outs, scanner)
	}
	errs := make(chan error, processes)
	for _, in := range ins { // all of them at once
		go func() {
			_, err := in.WriteString(lines.String())
			in.Close()
			errs <- err
		}()
	}
	winners := make([]int, processes)
	for p, out := range outs {
		for out.Scan() && out.Text() != "done" {
			require.True(t, all[out.Text()], "accepted twice, or never put: %s", out.Text())
			delete(all, out.Text())
			winners[p]++
		}
	}
	for range ins {
		require.NoError(t, <-errs)
	}
	require.Empty(t, all, "accepted by nobody")
	t.Logf("%d tickets, accepted by the processes: %v", each, winners)
}

func TestRedisProcesses(t *testing.T) {
	r := newRedis(t)
	began := time.Now()
	raceProcesses(t, openRedis(t, r.Addr), "redis", r.Addr)
	require.Less(t, time.Since(began), lifetime) // else tickets have expired, and nothing is known
}

// opened calls open until it succeeds: a busy machine may be slower than the store's Timeout.
func opened(t *testing.T, open func() (tickets.Store, error)) tickets.Store {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		store, err := open()
		if err == nil {
			return store
		}
		if time.Now().After(end) {
			require.NoError(t, err)
		}
	}
}
