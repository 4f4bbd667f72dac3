// Package ready sees whether a service is ready to be used.
package ready

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const (
	probeTakes = time.Second
	aliveAfter = 250 * time.Millisecond
)

// Check is how to see that a service is ready: exactly one of its fields.
type Check struct {
	TCP  string `json:"tcp,omitempty" desc:"host:port that takes connections."`
	HTTP string `json:"http,omitempty" desc:"URL that answers GET with a status below 400."`
	GRPC string `json:"grpc,omitempty" desc:"host:port where grpc.health.v1 says SERVING."`
}

// Kinds counts the fields that are set; a check that can be made has one.
func (r *Check) Kinds() (n int) {
	for _, kind := range []string{r.TCP, r.HTTP, r.GRPC} {
		if kind != "" {
			n++
		}
	}
	return n
}

// URL is where the service is, or empty for a nil check.
func (r *Check) URL() string {
	switch {
	case r == nil:
		return ""
	case r.TCP != "":
		return "tcp://" + r.TCP
	case r.GRPC != "":
		return "grpc://" + r.GRPC
	default:
		return r.HTTP
	}
}

// Probe asks once. It returns nil if the service is ready, or what it lacks. For a nil check that is to have lived,
// which is its age, for a moment.
func (r *Check) Probe(ctx context.Context, lived time.Duration) error {
	ctx, stop := context.WithTimeout(ctx, probeTakes)
	defer stop()
	switch {
	case r == nil && lived < aliveAfter:
		return errors.New("it has just been started")
	case r == nil:
		return nil
	case r.TCP != "":
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", r.TCP)
		if err != nil {
			return err
		}
		return conn.Close()
	case r.GRPC != "":
		return probeGRPC(ctx, r.GRPC)
	default:
		return probeHTTP(ctx, r.HTTP)
	}
}

func probeHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= http.StatusBadRequest {
		return errors.New("it answers " + answer.Status)
	}
	return nil
}

func probeGRPC(ctx context.Context, address string) error {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err == nil && answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		err = fmt.Errorf("its health is %v", answer.GetStatus())
	}
	return err
}
