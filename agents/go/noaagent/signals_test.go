package noaagent_test

import "syscall"

const (
	sigterm = syscall.SIGTERM
	sigint  = syscall.SIGINT
)
