package services

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/child"
	"github.com/noa-workflow/noa/agents/go/noaagent/ready"
)

const defaultTimeout = 30 * time.Second

// Service is a program to run beside the run.
type Service struct {
	Name     string            `json:"name" pattern:"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$"`
	Command  []string          `json:"command" desc:"The program and its arguments; no shell."`
	Env      map[string]string `json:"env,omitempty" desc:"Added to the agent's own environment."`
	Ready    *ready.Check      `json:"ready,omitempty" desc:"How to see that it is ready. Unset: it still lives a moment after its start."`
	TimeoutS float64           `json:"timeout_s,omitempty" min:"0" max:"86400" desc:"How long it may take to be ready; 30 if unset."`
}

type process struct {
	*child.Child
	service Service
}

func start(s Service, logPath string) (*process, error) {
	cmd := exec.Command(s.Command[0], s.Command[1:]...)
	// The token is between the engine and the agent.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NOA_AGENT_") })
	for name, value := range s.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	c, err := child.Start(cmd, logPath)
	if err != nil {
		return nil, noaagent.Fail{Code: "SERVICE_NOT_READY", Message: fmt.Sprintf("service %q cannot be started: %v", s.Name, err)}
	}
	return &process{Child: c, service: s}, nil
}

// awaitReady returns when the service is ready, has ended, or its time or ctx is over.
func (p *process) awaitReady(ctx context.Context) error {
	timeout := defaultTimeout
	if p.service.TimeoutS > 0 {
		timeout = time.Duration(p.service.TimeoutS * float64(time.Second))
	}
	err := p.service.Ready.Await(ctx, timeout, p.Exited)
	if err == nil || ctx.Err() != nil {
		return err
	}
	lines := p.Tail()
	return noaagent.Fail{
		Code: "SERVICE_NOT_READY", Retryable: true,
		Message: fmt.Sprintf("service %q: %v (%s). Its last log lines:\n%s", p.service.Name, err, p.Fate(), lines),
		Details: map[string]any{"service": p.service.Name, "last_lines": lines},
	}
}
