//go:build unix

// Package companion runs programs beside an agent's work: started as child processes that do not outlive the agent,
// without the agent's secrets, seen to be ready, and with what they said last in the failure when they are not.
package companion

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/child"
	"github.com/noa-workflow/noa/agents/go/noaagent/ready"
)

// CodeNotReady is the code of the failure of a program that cannot be started or does not become ready.
const CodeNotReady = "SERVICE_NOT_READY"

const defaultTimeout = 30 * time.Second

// Program is what to run. It can be part of an action's input.
type Program struct {
	Name     string            `json:"name" pattern:"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"`
	Command  []string          `json:"command" desc:"The program and its arguments; no shell."`
	Env      map[string]string `json:"env,omitempty" desc:"Added to the agent's own environment."`
	Ready    *ready.Check      `json:"ready,omitempty" desc:"How to see that it is ready. Unset: it still lives a moment after its start."`
	TimeoutS float64           `json:"timeout_s,omitempty" min:"0" max:"86400" desc:"How long it may take to be ready; 30 if unset."`
}

// Mistake names the field that is wrong and says how, or returns two empty strings.
func (p Program) Mistake() (field, problem string) {
	switch {
	case len(p.Command) == 0 || p.Command[0] == "":
		return "command", "must name a program"
	case p.Ready != nil && p.Ready.Kinds() != 1:
		return "ready", "must have exactly one of tcp, http and grpc"
	}
	return "", ""
}

// Companion is a program that was started.
type Companion struct {
	*child.Child
	program Program
}

// Start starts the program and appends what it writes to the file at logPath. The caller lets it go with Close, as a
// rule by way of [noaagent.Execution.Hold]. An error is a [noaagent.Fail] that names the program.
func (p Program) Start(logPath string) (*Companion, error) {
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.Env = child.Environment()
	for name, value := range p.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	c, err := child.Start(cmd, logPath)
	if err != nil {
		return nil, noaagent.Fail{Code: CodeNotReady, Message: fmt.Sprintf("service %q cannot be started: %v", p.Name, err)}
	}
	return &Companion{Child: c, program: p}, nil
}

// AwaitReady returns nil once the program is ready, a retryable [noaagent.Fail] with its last log lines when it has
// ended or its time is over, and the cause of ctx when that is cancelled.
func (c *Companion) AwaitReady(ctx context.Context) error {
	timeout := defaultTimeout
	if c.program.TimeoutS > 0 {
		timeout = time.Duration(c.program.TimeoutS * float64(time.Second))
	}
	err := c.program.Ready.Await(ctx, timeout, c.Exited)
	if err == nil || ctx.Err() != nil {
		return err
	}
	lines := c.Tail()
	return noaagent.Fail{
		Code: CodeNotReady, Retryable: true,
		Message: fmt.Sprintf("service %q: %v (%s). Its last log lines:\n%s", c.program.Name, err, c.Fate(), lines),
		Details: map[string]any{"service": c.program.Name, "last_lines": lines},
	}
}
