package noaagent

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The environment variables of the contract.
const (
	EnvListen   = "NOA_AGENT_LISTEN"
	EnvToken    = "NOA_AGENT_TOKEN"
	EnvProtocol = "NOA_AGENT_PROTOCOL"
	// EnvConformance is "1" when the agent is being checked: it then offers the action "echo".
	EnvConformance = "NOA_AGENT_CONFORMANCE"
)

// Exit statuses of an agent.
const (
	exitFailed     = 1
	exitBadLaunch  = 64
	exitTerminated = 143
)

// Launch is how an engine starts an agent.
type Launch struct {
	// Listen is "unix:/absolute/path.sock" or "127.0.0.1:PORT".
	Listen string
	// Token is what every call must carry.
	Token string
	// Stdin ends when the engine is gone; the agent then ends too. nil means that nobody watches.
	Stdin io.Reader
	// Signals brings SIGTERM: the first drains the agent, the second ends it. nil means none.
	Signals <-chan os.Signal
}

// ExitError is an end of the process with a status of its own.
type ExitError struct {
	// Status is the exit status: 64 for a launch that breaks the contract.
	Status int
	// Line is what stderr is told.
	Line string
}

// Error is the line for stderr.
func (e *ExitError) Error() string { return e.Line }

// LaunchFromEnv reads NOA_AGENT_LISTEN, NOA_AGENT_TOKEN and NOA_AGENT_PROTOCOL. An error is an [*ExitError] with
// status 64 that names the variable at fault.
func LaunchFromEnv() (Launch, error) { return launchFrom(os.Getenv) }

func launchFrom(env func(string) string) (Launch, error) {
	asked := env(EnvProtocol)
	if asked != "" && asked != strconv.Itoa(ProtocolVersion) {
		return Launch{}, badLaunch("%s is %q, but this agent speaks version %d", EnvProtocol, asked, ProtocolVersion)
	}
	for _, name := range []string{EnvListen, EnvToken, EnvProtocol} {
		if env(name) == "" {
			return Launch{}, badLaunch("%s is not set; agents are started by the engine, which sets it", name)
		}
	}
	return Launch{Listen: env(EnvListen), Token: env(EnvToken), Stdin: os.Stdin}, nil
}

func badLaunch(format string, args ...any) error {
	return &ExitError{Status: exitBadLaunch, Line: fmt.Sprintf(format, args...)}
}

func listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok && filepath.IsAbs(path) {
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			_ = os.Remove(path) // left by an agent that was killed; Listen says if it is in the way still
		}
		return net.Listen("unix", path)
	}
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return nil, badLaunch("%s is %q, expected unix:/absolute/path.sock or 127.0.0.1:PORT", EnvListen, address)
	}
	return net.Listen("tcp", address)
}
