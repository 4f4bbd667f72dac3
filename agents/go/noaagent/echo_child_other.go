//go:build !unix

package noaagent

import "errors"

func holdChild(*Execution) (pid int, err error) {
	return 0, errors.New("this system has no process groups")
}
