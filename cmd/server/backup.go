package main

import (
	"errors"
	"fmt"
	"os"

	"pipeproc/cmd/server/service"
)

// backup saves a namespace to a file, or restores it from one.
func backup(args []string, restore bool) int {
	cfg, err := service.ParseBackup(args, os.LookupEnv, restore)
	switch {
	case errors.Is(err, service.ErrHelp):
		fmt.Print(service.Help())
		return exitOK
	case err != nil:
		return fail(exitUsage, err)
	}
	cfg.Out = os.Stdout
	do := service.Backup
	if restore {
		do = service.Restore
	}
	if err := do(untilSignal(), cfg); err != nil {
		return fail(exitFailed, err)
	}
	return exitOK
}
