package checker

import (
	"cmp"
	"context"
	"fmt"
	"runtime/metrics"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// Limits of a check: a repository may come from a stranger, and the templates of its charts are programs.
type Limits struct {
	// Time is how long it may take; 0 for DefaultTime.
	Time time.Duration
	// Memory is how many bytes it may hold; 0 for DefaultMemory.
	Memory int64
}

// What a check may take, if nothing else is said.
const (
	DefaultTime   = 10 * time.Minute
	DefaultMemory = 3 << 30
)

// LimitError says that a check was given up as it takes more than it may.
type LimitError struct{ message string }

func (e *LimitError) Error() string { return e.message }

// grace is how long what was given up has to stop by itself.
const grace = 200 * time.Millisecond

// hold runs a check within its limits. What does not stop when it is given up is left behind, as nothing in a process can end it: then
// the process should end.
func (l Limits) hold(ctx context.Context, run func(context.Context) error) error {
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	done := make(chan outcome, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- outcome{fmt.Errorf("lockstep fails at what is in the repository: %v: please report it", p)}
			}
		}()
		done <- outcome{run(ctx)}
	}()
	most := cmp.Or(l.Memory, DefaultMemory)
	end := time.NewTimer(cmp.Or(l.Time, DefaultTime))
	defer end.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case o := <-done:
			if o.err != nil && ctx.Err() != nil {
				return context.Cause(ctx) // which is why it failed
			}
			return o.err
		case <-ctx.Done():
			return settle(done, context.Cause(ctx))
		case <-end.C:
			giveUp(&LimitError{fmt.Sprintf("it takes longer than %s", spelling.Duration(cmp.Or(l.Time, DefaultTime)))})
		case <-look.C:
			if held() > most {
				giveUp(&LimitError{fmt.Sprintf("it takes more than %s of memory", resource.NewQuantity(most, resource.BinarySI))})
			}
		}
	}
}

type outcome struct{ err error }

func settle(done <-chan outcome, why error) error {
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
	}
	return why
}

// held is how many bytes are on the heap.
func held() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}
