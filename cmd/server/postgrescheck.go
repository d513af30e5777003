package main

import (
	"errors"
	"fmt"
	"os"

	"pipeproc/cmd/server/service"
	"pipeproc/pgstore/embedded"
)

// postgresCheck tells where the PostgreSQL is that a server with these flags and this environment would run on: exit 0,
// or 1 when there is none. A database URL is told of as one, and not connected to.
func postgresCheck(args []string) int {
	cfg, err := service.ParseConfig(args, os.LookupEnv)
	switch {
	case errors.Is(err, service.ErrHelp):
		fmt.Print(service.Help())
		return exitOK
	case err != nil:
		return fail(exitUsage, err)
	case cfg.DatabaseURL != "":
		fmt.Println("a database URL is given")
		return exitOK
	}
	dir, version, err := embedded.Find(cfg.PostgresBin)
	if err != nil {
		return fail(exitFailed, err)
	}
	fmt.Printf("PostgreSQL %d in %s\n", version, dir)
	return exitOK
}
