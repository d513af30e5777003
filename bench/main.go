// Bench measures a server from outside: it starts bin/server as users do, on a private PostgreSQL with its default
// durability, puts load on it from this process, and prints one table with the bars that the service holds itself to.
//
//	go run ./bench speed
//
// It exits with 1 when a bar is missed, and names it.
//
// Absolute figures drift on shared machines; what is compared is measured in one run, in turns, and told as a median.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// suites are the subcommands.
var suites = map[string]func(context.Context, *bench) error{
	"systemprocs": systemProcs,
	"streams":     streams,
	"speed":       speed,
	"steady":      steady,
}

// usualRounds are what a suite runs unless -rounds says otherwise.
func usualRounds(suite string) int {
	if suite == "speed" {
		return 5
	}
	return 3
}

// bench is one run of a suite.
type bench struct {
	binary string
	rounds int
	only   string
	table  table

	// Of the suite speed alone.
	quick    bool
	profiles string // a folder
	markdown string // a file; of steady as well

	minutes int // of steady
}

// wants reports whether the case is asked for.
func (b *bench) wants(name string) bool { return strings.Contains(name, b.only) }

func main() {
	var b bench
	flag.StringVar(&b.binary, "server", "bin/server", "the server's binary")
	flag.IntVar(&b.rounds, "rounds", 0, "rounds of each case, of which the median is told (default 3; of speed 5)")
	flag.StringVar(&b.only, "only", "", "run only the cases whose name contains this")
	flag.BoolVar(&b.quick, "quick", false, "speed: short phases on small data, to see that everything works")
	flag.StringVar(&b.profiles, "profile", "", "speed: write CPU and heap profiles of the server under each load to this folder")
	flag.StringVar(&b.markdown, "markdown", "", "speed, steady: write the results to this file as well")
	flag.IntVar(&b.minutes, "minutes", 30, "steady: how long")
	flag.Usage = func() {
		names := make([]string, 0, len(suites))
		for name := range suites {
			names = append(names, name)
		}
		slices.Sort(names)
		fmt.Fprintf(os.Stderr, "usage: bench [flags] %s\n", strings.Join(names, "|"))
		flag.PrintDefaults()
	}
	flag.Parse()
	suite := suites[flag.Arg(0)]
	if b.rounds == 0 {
		b.rounds = usualRounds(flag.Arg(0))
	}
	if suite == nil || flag.NArg() != 1 || b.rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	debug.SetGCPercent(400) // the load's own garbage is not what is measured
	begin := time.Now()
	err := suite(ctx, &b)
	if len(b.table.rows) > 0 {
		b.table.print(os.Stdout)
	}
	if flag.Arg(0) != "steady" {
		fmt.Printf("\nmedians of %d rounds", b.rounds)
	}
	fmt.Printf("\n%s\n", time.Since(begin).Round(time.Second))
	if names := b.table.missed(); len(names) > 0 {
		err = errors.Join(err, fmt.Errorf("missed: %s", strings.Join(names, "; ")))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
