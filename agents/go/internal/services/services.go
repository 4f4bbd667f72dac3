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
)

// Input declares the services to start.
type Input struct {
	Services []Service `json:"services,omitempty" desc:"What to start, in this order. None: an HTTP inbox for alerts."`
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
	for i, s := range in.Services {
		field, problem := "", ""
		switch {
		case names[s.Name]:
			field, problem = "name", fmt.Sprintf("must be unique, but %q is there twice", s.Name)
		case len(s.Command) == 0 || s.Command[0] == "":
			field, problem = "command", "must name a program"
		case s.Ready != nil && s.Ready.Kinds() != 1:
			field, problem = "ready", "must have exactly one of tcp, http and grpc"
		}
		if problem != "" {
			return &noaagent.FieldError{Field: fmt.Sprintf("services[%d].%s", i, field), Problem: problem}
		}
		names[s.Name] = true
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
	for i, s := range in.Services {
		x.ProgressUnits(uint64(i), uint64(len(in.Services)), "services", "starting "+s.Name)
		p, err := start(s, filepath.Join(logs, s.Name+".log"))
		if err == nil {
			started = append(started, x.Hold(p.Close))
			err = p.awaitReady(ctx)
		}
		if err != nil {
			stopAll(started)
			return Output{}, err
		}
		out.Services[s.Name] = Started{URL: s.Ready.URL(), PID: p.PID}
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

// stopAll ends all services at once, after a start that failed.
func stopAll(started []func(context.Context) error) {
	ctx, done := context.WithTimeout(context.Background(), time.Second)
	defer done()
	ended := make(chan struct{})
	for _, stop := range started {
		go func() { _ = stop(ctx); ended <- struct{}{} }() // what does not end stays held by the run
	}
	for range started {
		<-ended
	}
}
