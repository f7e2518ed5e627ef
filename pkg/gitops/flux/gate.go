package flux

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// KindKustomization and KindRepository are those that a gate depends on.
func KindKustomization() schema.GroupVersionKind { return kindKustomization.WithVersion("v1") }

// KindRepository is the kind of the sources that name a commit.
func KindRepository() schema.GroupVersionKind { return kindRepository.WithVersion("v1") }

// Gate is where a Kustomization stands that may be deployed only after a restore point. Revisions are in the words of Flux.
type Gate struct {
	Name object.Name
	// Required says that an annotation closes the gate; Mistake says in words which of its annotations cannot be understood.
	Required bool
	Mistake  string
	// Timeout is how long a deploy waits for its point; Allow says that it goes on without one.
	Timeout time.Duration
	Allow   bool

	// Suspended says that Flux does not deploy it now, Restored that a Restore holds it, or has it deploy a commit.
	Suspended, Restored bool
	// Applied is what runs, Attempted what Flux began to deploy last, Approved what may be deployed.
	Applied, Attempted, Approved string
	// Mixed says that a deploy has begun and not ended, so that what runs is of no one commit.
	Mixed bool
	// Incoming is what the source gives and Flux deploys next, of the Commit; empty where it gives nothing. Unnamed says in words why
	// the source names no commit.
	Incoming, Commit, Unnamed string
	// Digest is that of the manifests of Applied; empty where Flux does not tell.
	Digest string
	// Waiting is what the controller says about it; nil if it says nothing.
	Waiting *Waiting
}

// Waiting is why a deploy waits; the annotation v1alpha1.AnnotationWaiting has it as JSON.
type Waiting struct {
	// From is the revision that runs, To the one that waits, since the moment.
	From string `json:"from"`
	To   string `json:"to"`
	// Since is when the controller saw it wait first.
	Since metav1.Time `json:"since"`
	// Reason is one of those of the condition DeployGate.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Points are the restore points that are waited for: "<namespace>/<name>".
	Points []string `json:"points,omitempty"`
}

// Closed says that what the source gives is not deployed before it is approved.
func (g Gate) Closed() bool {
	return g.Required && !g.Suspended && g.Incoming != "" && g.Incoming != g.Attempted && g.Incoming != g.Approved
}

// Since is from when on what comes now waits: the controller wrote it down when it saw it first.
func (g Gate) Since(now time.Time) time.Time {
	if g.Waiting != nil && g.Waiting.To == g.Incoming && g.Incoming != "" && !g.Waiting.Since.IsZero() {
		return g.Waiting.Since.Time
	}
	return now.Truncate(time.Second)
}

// Gates are all Kustomizations that have one, sorted.
func (f Flux) Gates(ctx context.Context) ([]Gate, error) {
	all, err := f.List(ctx, kindKustomization)
	if err != nil {
		return nil, err
	}
	m := members{all: map[object.Name]*unstructured.Unstructured{}}
	for i := range all {
		if _, ok := all[i].GetAnnotations()[v1alpha1.AnnotationPreDeploy]; ok {
			m.all[gitops.NameOf(&all[i])] = &all[i]
		}
	}
	var out []Gate
	for _, name := range m.names() {
		g, err := f.gate(ctx, m.all[name])
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

// Gate reads where a Kustomization stands; nil if there is none of the name.
func (f Flux) Gate(ctx context.Context, name object.Name) (*Gate, *unstructured.Unstructured, error) {
	u, err := f.Get(ctx, kindKustomization, name)
	if err != nil || u == nil || u.GetDeletionTimestamp() != nil {
		return nil, nil, err
	}
	g, err := f.gate(ctx, u)
	return &g, u, err
}

func (f Flux) gate(ctx context.Context, u *unstructured.Unstructured) (Gate, error) {
	g := gateOf(u)
	kind := gitops.Text(u, "spec", "sourceRef", "kind")
	if kind != kindRepository.Kind {
		g.Unnamed = fmt.Sprintf("its source is a %s, which names no Git commit", kind)
		return g, nil
	}
	source, err := f.Get(ctx, kindRepository, sourceOf(u))
	if err != nil || source == nil {
		return g, err
	}
	g.Incoming = gitops.Text(source, "status", "artifact", "revision")
	if g.Incoming == "" {
		return g, nil
	}
	if _, g.Commit, err = revision.Parse(g.Incoming); err != nil {
		g.Unnamed = fmt.Sprintf("GitRepository %s names no commit: %v", sourceOf(u), err)
	}
	return g, nil
}

// gateOf reads what the Kustomization itself says.
func gateOf(u *unstructured.Unstructured) Gate {
	notes := u.GetAnnotations()
	g := Gate{
		Name: gitops.NameOf(u), Timeout: v1alpha1.PreDeployTimeout, Suspended: suspended(u), Restored: u.GetLabels()[v1alpha1.LabelRestore] != "",
		Applied: gitops.Text(u, "status", "lastAppliedRevision"), Attempted: gitops.Text(u, "status", "lastAttemptedRevision"),
		Approved: notes[v1alpha1.AnnotationApprovedRevision], Digest: appliedDigest(u),
	}
	_, g.Mixed = running(u)
	var wants string
	wants, g.Required = notes[v1alpha1.AnnotationPreDeploy]
	if wants != v1alpha1.PreDeployRequired && g.Required {
		g.Mistake = mistake(v1alpha1.AnnotationPreDeploy, wants, "its only value is "+v1alpha1.PreDeployRequired)
	}
	if text, ok := notes[v1alpha1.AnnotationPreDeployTimeout]; ok {
		limit, err := time.ParseDuration(text)
		if err != nil || limit <= 0 {
			g.Mistake = mistake(v1alpha1.AnnotationPreDeployTimeout, text, `it is a time such as "30m"`)
		}
		g.Timeout = limit
	}
	switch text, ok := notes[v1alpha1.AnnotationOnBackupFailure]; {
	case ok && text == v1alpha1.BackupFailureAllow:
		g.Allow = true
	case ok && text != v1alpha1.BackupFailureBlock:
		g.Mistake = mistake(v1alpha1.AnnotationOnBackupFailure, text, "it is "+v1alpha1.BackupFailureBlock+" or "+v1alpha1.BackupFailureAllow)
	}
	if text, ok := notes[v1alpha1.AnnotationWaiting]; ok {
		g.Waiting = &Waiting{}
		if json.Unmarshal([]byte(text), g.Waiting) != nil {
			g.Waiting = &Waiting{} // whoever wrote it, it explains nothing; it is written anew
		}
	}
	return g
}

func mistake(annotation, value, want string) string {
	return fmt.Sprintf("annotation %s says %q: %s; correct it, or remove it with all others of the gate to deploy without a restore point", annotation, value, want)
}

// appliedDigest is the digest of the manifests that run, where the newest entry of the history is about them.
func appliedDigest(u *unstructured.Unstructured) string {
	history, _, _ := unstructured.NestedSlice(u.Object, "status", "history")
	if len(history) == 0 {
		return ""
	}
	newest, _ := history[0].(map[string]any)
	of, _, _ := unstructured.NestedString(newest, "metadata", "revision")
	if of == "" || of != gitops.Text(u, "status", "lastAppliedRevision") {
		return ""
	}
	digest, _ := newest["digest"].(string)
	return digest
}

// Approve lets Flux deploy a revision, and asks it to do so now.
func Approve(u *unstructured.Unstructured, revision string, now time.Time) {
	annotate(u, v1alpha1.AnnotationApprovedRevision, revision)
	Request(u, now)
}

// Withdraw takes an approval away.
func Withdraw(u *unstructured.Unstructured) { annotate(u, v1alpha1.AnnotationApprovedRevision, "") }

// Explain writes onto the Kustomization why it waits; nil takes that away.
func Explain(u *unstructured.Unstructured, w *Waiting) error {
	if w == nil {
		annotate(u, v1alpha1.AnnotationWaiting, "")
		return nil
	}
	data, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("writing down why %s waits: %w", object.KeyOf(u), err)
	}
	annotate(u, v1alpha1.AnnotationWaiting, string(data))
	return nil
}

// annotate sets an annotation; an empty value removes it.
func annotate(u *unstructured.Unstructured, name, value string) {
	notes := u.GetAnnotations()
	if value == "" {
		if _, ok := notes[name]; ok {
			delete(notes, name)
			u.SetAnnotations(notes)
		}
		return
	}
	if notes == nil {
		notes = map[string]string{}
	}
	notes[name] = value
	u.SetAnnotations(notes)
}

// SourceOf names the GitRepository of a Kustomization; empty if its source is of another kind.
func SourceOf(u *unstructured.Unstructured) object.Name {
	if gitops.Text(u, "spec", "sourceRef", "kind") != kindRepository.Kind {
		return object.Name{}
	}
	return sourceOf(u)
}
