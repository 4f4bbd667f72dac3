package noaagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// TestMain is an agent instead of the tests when it is told so: launches need a process of their own.
func TestMain(m *testing.M) {
	if os.Getenv("NOA_TEST_BE_AN_AGENT") != "" {
		a := New("test", "1").WithEcho()
		Handle(a, Action{Name: "spin"}, spin)
		Exit(a.Serve(context.Background()))
	}
	os.Exit(m.Run())
}

func launched(t *testing.T, env ...string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	stderr := &strings.Builder{}
	cmd.Env, cmd.Stderr = append(os.Environ(), append(env, "NOA_TEST_BE_AN_AGENT=1", "GORACE=atexit_sleep_ms=0")...), stderr
	return cmd, stderr
}

func TestBadLaunchExitsWith64AndOneLine(t *testing.T) {
	listen, token, protocol := "NOA_AGENT_LISTEN=unix:/nowhere/a.sock", "NOA_AGENT_TOKEN=x", "NOA_AGENT_PROTOCOL=1"
	for name, c := range map[string]struct {
		env  []string
		want []string
	}{
		"no listen":      {[]string{token, protocol}, []string{"NOA_AGENT_LISTEN"}},
		"no token":       {[]string{listen, protocol}, []string{"NOA_AGENT_TOKEN"}},
		"no protocol":    {[]string{listen, token}, []string{"NOA_AGENT_PROTOCOL"}},
		"other protocol": {[]string{listen, token, "NOA_AGENT_PROTOCOL=7"}, []string{`"7"`, "version 1"}},
		"public address": {[]string{"NOA_AGENT_LISTEN=0.0.0.0:5000", token, protocol}, []string{"NOA_AGENT_LISTEN"}},
		"relative path":  {[]string{"NOA_AGENT_LISTEN=unix:a.sock", token, protocol}, []string{"NOA_AGENT_LISTEN"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd, stderr := launched(t, c.env...)
			err := cmd.Run()
			if status, ok := errors.AsType[*exec.ExitError](err); !ok || status.ExitCode() != 64 {
				t.Errorf("ended with %v, want status 64", err)
			}
			if strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("not one line: %q", stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q does not contain %q", stderr, want)
				}
			}
		})
	}
}

func TestProcessEndsWithItsStdinAndReplacesAStaleSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "a.sock")
	for _, how := range []string{"killed", "stdin"} {
		cmd, stderr := launched(t, "NOA_AGENT_LISTEN=unix:"+socket, "NOA_AGENT_TOKEN=x", "NOA_AGENT_PROTOCOL=1")
		stdin, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		awaitSocket(t, socket, cmd.Process.Pid)
		begun := time.Now()
		if how == "killed" {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			continue
		}
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil || time.Since(begun) > 4*time.Second { // twice the contract's, on a busy machine
			t.Errorf("ended with %v after %v: %s", err, time.Since(begun), stderr)
		}
	}
}

// awaitSocket waits until the process pid listens on path, which may be there from an earlier one.
func awaitSocket(t *testing.T, path string, pid int) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, link := range links {
			if to, _ := os.Readlink(link); strings.HasPrefix(to, "socket:") {
				if _, err := os.Stat(path); err == nil {
					return
				}
			}
		}
	}
	t.Fatal("the agent does not listen")
}

func TestResultsAreForgottenByAgeAndOnlyInAFloodOfLargeOnesBySize(t *testing.T) {
	now := time.Now()
	table := newTable()
	table.now = func() time.Time { return now }
	end := func(id string, bytes int) {
		at := table.admit(t.Context(), &agentpb.ExecuteRequest{ExecutionId: id, RunId: "r"}, 0, "")
		at.task.end(failed(Fail{Code: "X", Message: strings.Repeat("x", bytes)}))
	}
	for i := range keepResults + 500 {
		end(fmt.Sprint("small", i), 10)
	}
	if n := len(table.results); n != keepResults+500 {
		t.Errorf("%d small results are kept", n)
	}
	for i := range 6000 {
		end(fmt.Sprint("large", i), 15<<10)
	}
	if n := len(table.results); n < keepResults || table.bytes > keepResultsBytes+(16<<10) {
		t.Errorf("%d results with %d bytes are kept", n, table.bytes)
	}
	now = now.Add(keepResultsFor)
	if _, ended := table.find("large5999"); !ended {
		t.Error("the last result is forgotten")
	}
	end("new", 1)
	if n := len(table.results); n != 1 {
		t.Errorf("%d results are kept after their time", n)
	}
}

type tree struct {
	Value    float64        `json:"value" desc:"What it is worth."`
	Children []*tree        `json:"children,omitempty"`
	At       time.Time      `json:"at,omitzero"`
	Any      any            `json:"any,omitempty"`
	Map      map[string]int `json:"map,omitempty"`
	Pair     [2]bool        `json:"pair,omitzero"`
	Bytes    []byte         `json:"bytes,omitempty"`
	Hidden   int            `json:"-"`
	embedded
}

type embedded struct {
	Inner string `json:"inner,omitempty"`
}

func TestSchemaOfATypeThatContainsItself(t *testing.T) {
	s := SchemaOf(reflect.TypeFor[tree]())
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	properties := `{"any":{},"at":{"format":"date-time","type":"string"},"bytes":{"contentEncoding":"base64","type":["string","null"]},` +
		`"children":{"items":{"anyOf":[{"$ref":"#/$defs/tree0"},{"type":"null"}]},"type":["array","null"]},"inner":{"type":"string"},` +
		`"map":{"additionalProperties":{"type":"integer"},"type":["object","null"]},` +
		`"pair":{"items":{"type":"boolean"},"maxItems":2,"minItems":2,"type":"array"},` +
		`"value":{"description":"What it is worth.","type":"number"}}`
	node := `"properties":` + properties + `,"required":["value"],"type":"object"}`
	if want := `{"$defs":{"tree0":{` + node + `},` + node; string(raw) != want {
		t.Errorf("got  %s\nwant %s", raw, want)
	}
	for input, want := range map[string]string{
		`{"value": 1, "children": [{"value": 2, "children": []}, null]}`: "",
		`{"value": 1, "children": [{"value": 2, "children": [{}]}]}`:     `field "children[0].children[0].value" is required`,
		`{"value": 1, "map": {"a": "b"}}`:                                `field "map.a" must be integer, not string`,
		`{"value": 1, "pair": [true]}`:                                   `field "pair" must have 2 items, not 1`,
		`{"value": 1, "at": "yesterday"}`:                                `field "input" `,
	} {
		got := ""
		if _, err := decodeInput[tree](s, []byte(input)); err != nil {
			got = err.Error()
		}
		if (got == "") != (want == "") || !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", input, got, want)
		}
	}
}

func TestRegistrationMistakesPanic(t *testing.T) {
	work := func(context.Context, *Execution, struct{}) (struct{}, error) { return struct{}{}, nil }
	list := func(context.Context, *Execution, []int) (struct{}, error) { return struct{}{}, nil }
	for name, mistake := range map[string]func(*Agent){
		"no name":       func(a *Agent) { Handle(a, Action{}, work) },
		"twice":         func(a *Agent) { Handle(a, Action{Name: "echo"}, work) },
		"not an object": func(a *Agent) { Handle(a, Action{Name: "list"}, list) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it did not panic")
				}
			}()
			mistake(New("test", "1").WithEcho())
		})
	}
}
