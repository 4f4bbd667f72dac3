package noaagent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/noa-workflow/noa/agents/go/noaagent/agentpb"
)

// ProtocolVersion is the version of the agent contract that this package speaks.
const ProtocolVersion = 1

// Agent is a set of actions that an engine can ask for. Build it with [New], register actions with [Handle], then
// call [Agent.Serve] once. Registration must be over before Serve starts; a mistake in it panics, since only the
// author can mend it.
type Agent struct {
	name, version string
	capacity      int
	actions       map[string]*action
	onStart       []func(context.Context) error
	onRelease     []func(context.Context, string) (int, error)

	table *table
	holds holds
	dirs  tempDirs
	probe *health.Server

	mu      sync.Mutex
	status  agentpb.HealthStatus
	message string
}

// New returns an agent without actions. Both arguments go into the manifest.
func New(name, version string) *Agent {
	a := &Agent{
		name:    name,
		version: version,
		actions: map[string]*action{},
		table:   newTable(),
		probe:   health.NewServer(),
	}
	a.setStatus(agentpb.HealthStatus_HEALTH_STATUS_STARTING, "starting")
	return a
}

// WithCapacity limits how many executions go on at once; more are refused with OVERLOADED. 0, the default, means
// no limit. Returns the agent.
func (a *Agent) WithCapacity(executions int) *Agent {
	a.capacity = max(executions, 0)
	return a
}

// OnStart registers work that must be done before the agent can take executions, such as loading a model. The
// agent answers Health with STARTING until all of it has returned, and with NOT_SERVING and the error when one
// fails. ctx ends when the agent ends.
func (a *Agent) OnStart(prepare func(ctx context.Context) error) {
	a.onStart = append(a.onStart, prepare)
}

// OnRelease registers a handler that lets go of everything held for a run: child processes, services, files. It
// returns how many things it let go of. It is called when the engine cancels the run, which it does after every
// run, and for every run that is still open when the agent ends. Executions of the run have been cancelled before,
// but may not have returned yet. It must be done by the deadline of ctx and must bear being called again.
func (a *Agent) OnRelease(release func(ctx context.Context, runID string) (released int, err error)) {
	a.onRelease = append(a.onRelease, release)
}

func (a *Agent) register(act *action) {
	name := act.spec.Name
	if name == "" {
		panic("noaagent: an action needs a name")
	}
	if _, taken := a.actions[name]; taken {
		panic(fmt.Sprintf("noaagent: action %q is registered twice", name))
	}
	a.actions[name] = act
}

func (a *Agent) actionNames() []string { return slices.Sorted(maps.Keys(a.actions)) }

func (a *Agent) manifest() *agentpb.Manifest {
	m := &agentpb.Manifest{
		Name: a.name, Language: "go", Version: a.version, ProtocolVersions: []uint32{ProtocolVersion},
	}
	for _, name := range a.actionNames() {
		m.Actions = append(m.Actions, a.actions[name].proto)
	}
	return m
}

func (a *Agent) health() (agentpb.HealthStatus, string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status, a.message
}

// setStatus moves the agent to a status unless it drains already: draining ends only with the process.
func (a *Agent) setStatus(status agentpb.HealthStatus, message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.status == agentpb.HealthStatus_HEALTH_STATUS_DRAINING {
		return
	}
	a.status, a.message = status, message
	stock := healthpb.HealthCheckResponse_NOT_SERVING
	if status == agentpb.HealthStatus_HEALTH_STATUS_SERVING {
		stock = healthpb.HealthCheckResponse_SERVING
	}
	a.probe.SetServingStatus("", stock)
	a.probe.SetServingStatus(agentpb.AgentService_ServiceDesc.ServiceName, stock)
}
