// Command noa-go-agent is the Go agent that comes with noa: it starts the services that a run needs.
package main

import (
	"github.com/noa-workflow/noa/agents/go/internal/services"
	"github.com/noa-workflow/noa/agents/go/noaagent"
)

var version = "0.1.0" // set by the build

func main() {
	a := noaagent.New("go", version).WithEcho()
	services.Register(a)
	a.Main()
}
