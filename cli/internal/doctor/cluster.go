package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/rest"
)

// Minor versions of Kubernetes that matter.
const (
	oldest           = 24 // dataSourceRef, beta
	recommended      = 30 // ValidatingAdmissionPolicy
	dataSourceRefsGA = 33
)

// skew is how far the clocks may be apart: leases, and "the newest point before", are read by this machine's clock.
const skew = 30 * time.Second

func checkAPIServer(ctx context.Context, s *Subject) ([]Finding, error) {
	v, _, err := askVersion(ctx, s)
	if err != nil {
		return nil, err
	}
	minor, err := strconv.Atoi(strings.TrimRight(v.Minor, "+"))
	if err != nil || v.Major != "1" {
		return nil, fmt.Errorf("the API server calls itself %q", v.GitVersion)
	}
	switch {
	case minor < oldest:
		return []Finding{problem("Upgrade Kubernetes.", "Kubernetes %s; Lockstep needs 1.%d, and recommends 1.%d", v.GitVersion, oldest, recommended)}, nil
	case minor < recommended:
		return []Finding{warning("Upgrade Kubernetes.", "Kubernetes %s; 1.%d is recommended, which can hold a deployment back by policy", v.GitVersion, recommended)}, nil
	case minor < dataSourceRefsGA:
		return []Finding{ok("Kubernetes %s; dataSourceRef is beta before 1.%d", v.GitVersion, dataSourceRefsGA)}, nil
	}
	return []Finding{ok("Kubernetes %s", v.GitVersion)}, nil
}

func checkClock(ctx context.Context, s *Subject) ([]Finding, error) {
	before := s.Now()
	_, date, err := askVersion(ctx, s)
	if err != nil {
		return nil, err
	}
	after := s.Now()
	// The header has whole seconds, and was written at some moment of the request.
	off := max(before.Sub(date)-time.Second, date.Sub(after), 0).Round(time.Second)
	if off > skew {
		return []Finding{warning("Let both keep time by NTP.", "this machine and the API server differ by %s: which point is the newest, and whether "+
			"the controller is alive, may be judged wrongly", off)}, nil
	}
	return []Finding{ok("this machine and the API server differ by less than %s", max(off, time.Second)+time.Second)}, nil
}

// askVersion asks the API server itself what it is and what time it has.
func askVersion(ctx context.Context, s *Subject) (v version.Info, date time.Time, err error) {
	client, err := rest.HTTPClientFor(s.Cluster.Config)
	if err != nil {
		return v, date, fmt.Errorf("connecting: %w", err)
	}
	base, _, err := rest.DefaultServerUrlFor(s.Cluster.Config)
	if err != nil {
		return v, date, fmt.Errorf("connecting: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("version").String(), nil)
	if err != nil {
		return v, date, fmt.Errorf("asking for the version: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return v, date, fmt.Errorf("asking for the version: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return v, date, fmt.Errorf("asking for the version: the API server answers %s", response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&v); err != nil {
		return v, date, fmt.Errorf("reading the version: %w", err)
	}
	if date, err = http.ParseTime(response.Header.Get("Date")); err != nil {
		return v, date, fmt.Errorf("reading the API server's time: %w", err)
	}
	return v, date, nil
}

// kindOf is short for a kind of a group.
func kindOf(group, kind string) schema.GroupKind { return schema.GroupKind{Group: group, Kind: kind} }
