package residual

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Capture keeps the residual objects of the scope. A required Secret or ConfigMap that is nowhere is a *MissingError, and
// more than a document can hold is a *SizeError. The reader must not be a cache.
func Capture(ctx context.Context, c client.Reader, scope Scope) (Set, error) {
	facts, err := Survey(ctx, c, scope)
	if err != nil {
		return Set{}, err
	}
	versions := map[object.Key]string{}
	for _, o := range facts.Objects {
		versions[o.Key] = o.APIVersion
	}
	k := keeper{Reader: c, facts: facts, set: Set{Version: Version, Secrets: []corev1.Secret{}}}
	for _, d := range Decide(facts) {
		switch d.Verdict {
		case Missing:
			return Set{}, missing(d.Key, facts)
		case In:
			if err := k.keep(ctx, d.Key, versions[d.Key]); err != nil {
				return Set{}, err
			}
		}
	}
	return k.set, nil
}

func missing(key object.Key, facts Facts) error {
	return &MissingError{Kind: strings.ToLower(key.Kind), Secret: key.NamespacedName().String(), By: facts.Wanted[key].By}
}

type keeper struct {
	client.Reader
	facts Facts
	set   Set
	// bytes is the size of what has been kept; largest is the largest of it.
	bytes   int
	largest SizeError
}

// keep reads an object and adds it to the set, unless it has gone meanwhile.
func (k *keeper) keep(ctx context.Context, key object.Key, apiVersion string) error {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(schema.FromAPIVersionAndKind(apiVersion, key.Kind))
	err := k.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name}, live)
	if apierrors.IsNotFound(err) {
		if k.facts.Wanted[key].Required {
			return missing(key, k.facts)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", key, err)
	}
	clean := Sanitise(live)
	if by := k.facts.Bootstrap[key]; by != "" {
		annotations := clean.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[v1alpha1.AnnotationBootstrap] = by
		clean.SetAnnotations(annotations)
	}
	data, err := json.Marshal(clean)
	if err != nil {
		return fmt.Errorf("keeping %s: it does not become JSON", key)
	}
	k.bytes += len(data)
	if len(data) > k.largest.Bytes {
		k.largest = SizeError{key, len(data)}
	}
	if k.bytes > MaxDocument {
		return &k.largest
	}
	if key.GroupKind() != object.Secret {
		k.set.Objects = append(k.set.Objects, *clean)
		return nil
	}
	secret := corev1.Secret{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(clean.Object, &secret); err != nil {
		return fmt.Errorf("keeping %s: it is no Secret", key) // the cause may quote a value
	}
	k.set.Secrets = append(k.set.Secrets, secret)
	return nil
}
