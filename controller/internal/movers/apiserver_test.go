package movers

import (
	"testing"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// TestAbandon: a real API server lets a Job that runs be ended, and what is made carries the slot.
func TestAbandon(t *testing.T) {
	_, c := testenv.Start(t, scheme.Scheme)
	g := NewWithT(t)
	made, err := mover.NewJob(mover.JobSpec{
		Name: "mover", Image: "image", Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.FieldManager},
		Vault:   mover.VaultAccess{URL: "s3://bucket/vault", KeySecret: "key"},
		Volumes: []mover.JobVolume{{Claim: "data", Block: true}},
	})
	g.Expect(err).NotTo(HaveOccurred())
	r := &Room{Reader: c, Client: c, Limits: Limits{Max: 1, PerNode: 1}}
	g.Expect(r.Start(t.Context(), made)).To(BeTrue())
	job := &batchv1.Job{}
	g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(made), job)).To(Succeed())
	g.Expect(job.Spec.Template.Labels).To(HaveKeyWithValue(labelSlot, "0"))
	for range 2 { // a controller that died in between does it again
		g.Expect(r.Abandon(t.Context(), job, "no node took it")).To(Succeed())
	}
	g.Expect(c.Get(t.Context(), client.ObjectKeyFromObject(made), job)).To(Succeed())
	g.Expect(*job.Spec.ActiveDeadlineSeconds).To(BeEquivalentTo(1))
	g.Expect(job.Annotations).To(HaveKeyWithValue(mover.AnnotationAbandoned, "no node took it"))
	g.Expect(c.Delete(t.Context(), job)).To(Succeed())
	g.Expect(r.Abandon(t.Context(), job, "it is gone")).To(Succeed())
}
