package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

func testPut(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	objects := parse(t, strings.ReplaceAll(`
{apiVersion: v1, kind: ConfigMap, metadata: {name: good, namespace: NS}, data: {k: v}}
---
{apiVersion: v1, kind: Secret, metadata: {name: bad, namespace: NS}, data: {password: hunter2}}
`, "NS", ns))
	a := New(c, application())
	for range 2 {
		if err := a.Put(t.Context(), objects[0]); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.get(t, objects[0]).GetLabels()[v1alpha1.LabelApplicationName]; got != "policy" {
		t.Errorf("the object carries the name %q of the application", got)
	}
	if objects[0].GetLabels() != nil {
		t.Error("the object given was modified")
	}
	err := a.Put(t.Context(), objects[1])
	var refused *ObjectError
	if !errors.As(err, &refused) || refused.Key != object.KeyOf(objects[1]) {
		t.Fatalf("got error %v, want an ObjectError that names the Secret", err)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error holds a secret: %v", err)
	}
}

// testPutDeleting: what is being deleted takes every change, and goes.
func testPutDeleting(t *testing.T, c *cluster) {
	o := parse(t, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: going, namespace: %s}, data: {k: v}}`, c.namespace(t)))[0]
	held := o.DeepCopy()
	held.SetFinalizers([]string{"example.org/hold"})
	if err := c.Create(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), o.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	a := New(c, application())
	var refused *ObjectError
	if err := a.Put(t.Context(), o); !errors.As(err, &refused) || !errors.Is(err, ErrDeleting) {
		t.Fatalf("got error %v", err)
	}
	live := c.get(t, o)
	live.SetFinalizers(nil)
	if err := c.Update(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	if err := a.Put(t.Context(), o); err != nil || c.get(t, o).GetDeletionTimestamp() != nil {
		t.Errorf("it can be applied now: %v", err)
	}
}

func testUsable(t *testing.T, c *cluster) {
	definition := parse(t, strings.ReplaceAll(definition("Gadget", "Namespaced"), "stages.example.com", "usable.example.com"))[0]
	a := New(c, application())
	if usable, err := a.Usable(t.Context(), definition); err != nil || usable {
		t.Fatalf("before it is there: %v, %v", usable, err)
	}
	if err := a.Put(t.Context(), definition); err != nil {
		t.Fatal(err)
	}
	err := wait.PollUntilContextTimeout(t.Context(), pollInterval, 5*time.Minute, true, func(ctx context.Context) (bool, error) {
		return a.Usable(ctx, definition)
	})
	if err != nil {
		t.Fatal(err)
	}
	ns := c.namespace(t)
	gadget := parse(t, fmt.Sprintf(`{apiVersion: usable.example.com/v1, kind: Gadget, metadata: {name: g, namespace: %s}}`, ns))[0]
	if err := a.Put(t.Context(), gadget); err != nil {
		t.Errorf("it was said to be usable: %v", err)
	}
}

// testMany: the health of many objects of a kind costs a list, and no request for each of them.
func testMany(t *testing.T, c *cluster) {
	ns := c.namespace(t)
	var manifests []string
	for i := range 20 {
		manifests = append(manifests, fmt.Sprintf(`{apiVersion: v1, kind: ConfigMap, metadata: {name: c%d, namespace: %s}}`, i, ns))
	}
	objects := parse(t, strings.Join(manifests, "\n---\n"))
	if entries, err := New(c, application()).Apply(t.Context(), objects[:19]); err != nil || len(entries) != 19 {
		t.Fatalf("%d applied, %v", len(entries), err)
	}
	unlabelled := c.get(t, objects[3])
	unlabelled.SetLabels(nil)
	if err := c.Update(t.Context(), unlabelled); err != nil {
		t.Fatal(err)
	}

	inner, err := client.NewWithWatch(c.config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var gets, lists atomic.Int32
	counted := interceptor.NewClient(inner, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			gets.Add(1)
			return c.Get(ctx, key, o, opts...)
		},
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			lists.Add(1)
			return c.List(ctx, l, opts...)
		},
	})
	got, err := New(counted, application()).Health(t.Context(), objects)
	if err != nil {
		t.Fatal(err)
	}
	count := map[Health]int{}
	for _, st := range got {
		count[st.Health]++
	}
	if diff := cmp.Diff(map[Health]int{Current: 19, NotFound: 1}, count); diff != "" {
		t.Errorf("health (-want +got):\n%s", diff)
	}
	if got[object.KeyOf(objects[3])].Health != Current {
		t.Error("an object that lost its labels is there all the same")
	}
	if gets.Load() != 2 || lists.Load() != 1 {
		t.Errorf("%d lists and %d single reads; want one list, and one read for each of the two that are not in it", lists.Load(), gets.Load())
	}
}
