// Command noa-go-worker does the jobs that a workflow distributes: it hashes and compresses files.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	"github.com/noa-workflow/noa/agents/go/internal/compress"
	"github.com/noa-workflow/noa/agents/go/noaagent"
)

const exitUsage = 2

var version = "0.1.0" // set by the build

func main() {
	capacity := flag.Int("capacity", runtime.GOMAXPROCS(0), "executions that go on at once; default: the number of cores")
	flag.Parse()
	if *capacity < 1 || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "usage: noa-go-worker [--capacity N], with N at least 1")
		os.Exit(exitUsage)
	}
	a := noaagent.New("go-worker", version).WithCapacity(*capacity).WithEcho()
	compress.Register(a)
	a.Main()
}
