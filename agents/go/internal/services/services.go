// Package services starts what a run needs beside it and keeps it until the run is over.
package services

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/noa-workflow/noa/agents/go/internal/inbox"
	"github.com/noa-workflow/noa/agents/go/noaagent"
	"github.com/noa-workflow/noa/agents/go/noaagent/companion"
)

// Input declares the services to start.
type Input struct {
	Services []companion.Program `json:"services,omitempty" desc:"What to start, in this order. None: an HTTP inbox for alerts."`
}

// Output says where the services are.
type Output struct {
	Services map[string]Started `json:"services" desc:"By name."`
}

// Started is a service that is ready.
type Started struct {
	URL string `json:"url" desc:"Where it is; empty if nothing says so."`
	PID int    `json:"pid"`
}

// Validate checks that names are unique and that each service has a command and one kind of readiness.
func (in Input) Validate() error {
	names := map[string]bool{}
	for i, p := range in.Services {
		field, problem := p.Mistake()
		if names[p.Name] {
			field, problem = "name", fmt.Sprintf("must be unique, but %q is there twice", p.Name)
		}
		if problem != "" {
			return &noaagent.FieldError{Field: fmt.Sprintf("services[%d].%s", i, field), Problem: problem}
		}
		names[p.Name] = true
	}
	return nil
}

// Register adds the action service_startup to a.
func Register(a *noaagent.Agent) {
	noaagent.Handle(a, noaagent.Action{
		Name:        "service_startup",
		Description: "Starts services, waits until they are ready and keeps them until the run is over.",
	}, startup)
}

func startup(ctx context.Context, x *noaagent.Execution, in Input) (Output, error) {
	dir, err := x.OutputDir()
	if err != nil {
		return Output{}, err
	}
	if len(in.Services) == 0 {
		return openInbox(x, dir)
	}
	logs := filepath.Join(dir, "services")
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return Output{}, err
	}
	out := Output{Services: map[string]Started{}}
	var started []func(context.Context) error
	for i, p := range in.Services {
		x.ProgressUnits(uint64(i), uint64(len(in.Services)), "services", "starting "+p.Name)
		c, err := p.Start(filepath.Join(logs, p.Name+".log"))
		if err == nil {
			started = append(started, x.Hold(c.Close))
			err = c.AwaitReady(ctx)
		}
		if err != nil {
			noaagent.LetGo(time.Second, started...)
			return Output{}, err
		}
		out.Services[p.Name] = Started{URL: p.Ready.URL(), PID: c.PID}
	}
	return out, nil
}

func openInbox(x *noaagent.Execution, dir string) (Output, error) {
	box, err := inbox.Open(filepath.Join(dir, "alerts.jsonl"))
	if err != nil {
		return Output{}, fmt.Errorf("open the inbox: %w", err)
	}
	x.Hold(box.Close)
	return Output{Services: map[string]Started{"inbox": {URL: box.URL, PID: os.Getpid()}}}, nil
}
