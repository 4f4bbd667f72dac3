//go:build unix

package noaagent

import (
	"os"
	"os/exec"

	"github.com/noa-workflow/noa/agents/go/noaagent/child"
)

// holdChild starts a process that would live for ten minutes and holds it for the run.
func holdChild(x *Execution) (pid int, err error) {
	cmd := exec.Command("sleep", "600")
	cmd.Env = child.Environment()
	c, err := child.Start(cmd, os.DevNull)
	if err != nil {
		return 0, err
	}
	x.Hold(c.Close)
	return c.PID, nil
}
