package main

import (
	"os"
	"slices"
	"strings"
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

func TestTheGuideShowsThisAgentWhichHasLessThan40Lines(t *testing.T) {
	program, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(program), "\n"); lines >= 40 {
		t.Errorf("it has %d lines", lines)
	}
	if !strings.Contains(string(guide), "```go\n"+string(program)+"```\n") {
		t.Error("agents/go/README.md does not show main.go as it is")
	}
}
