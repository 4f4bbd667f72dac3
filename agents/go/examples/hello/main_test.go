package main

import (
	"slices"
	"testing"

	"github.com/noa-workflow/noa/agents/go/noaagent/agenttest"
)

func TestEveryoneIsGreeted(t *testing.T) {
	out, failure := agenttest.Call[Output](t, newAgent(), "greet", Input{Names: []string{"Ada", "Grace"}})
	if failure != nil || !slices.Equal(out.Greetings, []string{"Hello, Ada!", "Hello, Grace!"}) {
		t.Errorf("got %v, %v", out, failure)
	}
}

func TestAnEmptyNameFails(t *testing.T) {
	if _, failure := agenttest.Call[Output](t, newAgent(), "greet", Input{Names: []string{""}}); failure.GetCode() != "NAMELESS" {
		t.Errorf("got %v", failure)
	}
}
