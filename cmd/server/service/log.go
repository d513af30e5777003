package service

import (
	"log/slog"
	"os"
)

// logger is the log that c asks for.
func logger(c *Config) *slog.Logger {
	if c.Logger != nil {
		return c.Logger
	}
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
