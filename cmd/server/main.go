// Command server runs PipeProc: a structured commit log over HTTP, on PostgreSQL. See server --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"pipeproc/cmd/server/service"
)

// Exit codes. A second signal exits with exitHurried at once.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitHurried = 3
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch command {
	case "healthcheck":
		return healthcheck(args[1:])
	case "backup":
		return backup(args[1:], false)
	case "restore":
		return backup(args[1:], true)
	case "keygen":
		return keygen(args[1:])
	case "postgres-check":
		return postgresCheck(args[1:])
	case "version":
		fmt.Println("pipeproc", version())
		return exitOK
	case "help":
		fmt.Print(service.Help())
		return exitOK
	}
	return serve(args)
}

func serve(args []string) int {
	cfg, err := service.ParseConfig(args, os.LookupEnv)
	switch {
	case errors.Is(err, service.ErrHelp):
		fmt.Print(service.Help())
		return exitOK
	case errors.Is(err, service.ErrVersion):
		fmt.Println("pipeproc", version())
		return exitOK
	case err != nil:
		return fail(exitUsage, err)
	}
	cfg.Out, cfg.Version = os.Stdout, version()
	s, err := service.New(cfg)
	if err != nil {
		return fail(exitUsage, err)
	}
	ballast := make([]byte, ballastSize)
	defer runtime.KeepAlive(ballast)
	if err := s.Run(untilSignal()); err != nil {
		return fail(exitFailed, err)
	}
	return exitOK
}

// keygen prints an API key and the line that lets it in.
func keygen(args []string) int {
	switch err := service.Keygen(args, os.Stdout); {
	case errors.Is(err, service.ErrHelp):
		fmt.Print(service.KeygenHelp)
	case err != nil:
		return fail(exitUsage, err)
	}
	return exitOK
}

// ballastSize is memory that is never touched, and so never taken from the machine, but counts as heap: a server with a
// few MB of its own would collect garbage after every few MB more, hundreds of times a second under load.
const ballastSize = 16 << 20

// untilSignal is a context that the first SIGINT or SIGTERM ends. A second one ends the process at once.
func untilSignal() context.Context {
	ctx, stop := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		stop(errors.New((<-signals).String()))
		<-signals
		os.Exit(exitHurried)
	}()
	return ctx
}

// fail tells err in one line.
func fail(code int, err error) int {
	fmt.Fprintln(os.Stderr, "pipeproc:", strings.Join(strings.FieldsFunc(err.Error(), func(c rune) bool {
		return c == '\n' || c == '\t'
	}), " "))
	return code
}

// built is the version that the linker is told; empty where it is built from a checkout.
var built string

// version is the linker's, else that of the module, which go build takes from the checkout.
func version() string {
	if built != "" {
		return built
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
