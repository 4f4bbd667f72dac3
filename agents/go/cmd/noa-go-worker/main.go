// Command noa-go-worker does the jobs that a workflow distributes: it hashes and compresses files.
//
//	noa-go-worker [--capacity N]
//
// It takes N executions at once: as the flag says, else NOA_WORKER_CAPACITY, else one per core.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"github.com/noa-workflow/noa/agents/go/internal/compress"
	"github.com/noa-workflow/noa/agents/go/noaagent"
)

const (
	capacityVariable = "NOA_WORKER_CAPACITY"
	exitUsage        = 64
)

var version = "0.1.0" // set by the build

func main() {
	capacity, err := askedCapacity(os.Args[1:], os.Getenv(capacityVariable))
	if err != nil {
		noaagent.Exit(&noaagent.ExitError{Status: exitUsage, Line: err.Error()})
	}
	a := noaagent.New("go-worker", version).WithCapacity(capacity).WithEcho()
	compress.Register(a)
	a.Main()
}

// askedCapacity reads how many executions may go on at once; an error is one line.
func askedCapacity(args []string, variable string) (int, error) {
	flags := flag.NewFlagSet("noa-go-worker", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	capacity := runtime.GOMAXPROCS(0)
	if variable != "" {
		n, err := strconv.Atoi(variable)
		if err != nil || n < 1 {
			return 0, fmt.Errorf("%s is %q, expected how many executions at once, 1 or more", capacityVariable, variable)
		}
		capacity = n
	}
	flags.IntVar(&capacity, "capacity", capacity, "executions at once")
	switch err := flags.Parse(args); {
	case err != nil:
		return 0, fmt.Errorf("%w. Usage: noa-go-worker [--capacity N]", err)
	case flags.NArg() > 0:
		return 0, fmt.Errorf("argument %q is not known. Usage: noa-go-worker [--capacity N]", flags.Arg(0))
	case capacity < 1:
		return 0, fmt.Errorf("--capacity is %d, expected how many executions at once, 1 or more", capacity)
	}
	return capacity, nil
}
