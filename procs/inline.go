package procs

import "pipeproc/api"

// checkInline answers CodeNoValidProcessor for a text that is no function, or where inline processors do not run.
func (c *Config) checkInline(string) error {
	return api.Errorf(api.CodeNoValidProcessor, "inline processors are not enabled on this server")
}
