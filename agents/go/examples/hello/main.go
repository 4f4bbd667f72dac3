// Command hello is an agent with one action.
package main

import (
	"context"

	"github.com/noa-workflow/noa/agents/go/noaagent"
)

// Input is what greet takes.
type Input struct {
	Names []string `json:"names" desc:"Whom to greet."`
}

// Output is what greet gives.
type Output struct {
	Greetings []string `json:"greetings"`
}

func greet(_ context.Context, x *noaagent.Execution, in Input) (Output, error) {
	out := Output{Greetings: []string{}}
	for i, name := range in.Names {
		x.ProgressUnits(uint64(i), uint64(len(in.Names)), "names", name)
		if name == "" {
			return out, noaagent.Failf("NAMELESS", "names[%d] is empty", i)
		}
		out.Greetings = append(out.Greetings, "Hello, "+name+"!")
	}
	return out, nil
}

func newAgent() *noaagent.Agent {
	agent := noaagent.New("hello", "1.0.0")
	noaagent.Handle(agent, noaagent.Action{Name: "greet", Idempotent: true}, greet)
	return agent
}

func main() { newAgent().Main() }
