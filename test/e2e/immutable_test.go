package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// TestImmutability takes points in a vault that locks. Whoever has the vault's credentials then tries to delete all of it, and the
// point is whole. A vault whose bucket cannot lock is not Ready, and says why.
func TestImmutability(t *testing.T) {
	const name = "immutable"
	watchOver(t)
	ctx := t.Context()
	governance := &v1alpha1.Immutability{Mode: v1alpha1.LockGovernance, Retention: metav1.Duration{Duration: time.Hour}}
	locked := newLockedVault(ctx, t, "locked", governance)

	plain := newVault(ctx, t, "plain")
	vault := &v1alpha1.Vault{}
	must(t, shared.prod.Get(ctx, client.ObjectKey{Name: "plain"}, vault))
	vault.Spec.Immutability = governance
	must(t, shared.prod.Update(ctx, vault))
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		err := shared.prod.Get(ctx, client.ObjectKeyFromObject(vault), vault)
		return slices.ContainsFunc(vault.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonNotImmutable &&
				strings.Contains(c.Message, "enable it")
		}), err
	}))
	destroy(ctx, t, plain)

	newNotes(ctx, t, name)
	policy := &v1alpha1.ProtectionPolicy{}
	must(t, shared.prod.Get(ctx, client.ObjectKey{Namespace: name, Name: "notes"}, policy))
	policy.Spec.Vaults = []string{"locked"}
	must(t, shared.prod.Update(ctx, policy))
	for range 2 { // the second reuses what the first stored
		lockstep(ctx, t, shared.prod, "backup", "notes", "-n", name)
	}
	var points v1alpha1.RestorePointList
	must(t, shared.prod.List(ctx, &points, client.InNamespace(name)))
	for _, p := range points.Items {
		if c := p.Status.Copies[0]; c.LockedUntil == nil || c.LockedUntil.Before(&metav1.Time{Time: p.Status.Taken.Add(time.Hour)}) {
			t.Errorf("point %s is locked until %v, want an hour after %v", p.Status.ID, c.LockedUntil, p.Status.Taken)
		}
	}
	if len(points.Items) != 2 {
		t.Errorf("%d points, want 2", len(points.Items))
	}
	s, err := backend.Open(ctx, locked.url, backend.Credentials{AccessKeyID: shared.lab.S3.AccessKey, SecretAccessKey: shared.lab.S3.SecretKey})
	must(t, err)
	kept := 0
	for info, err := range s.List(ctx, "") {
		must(t, err)
		if strings.HasPrefix(info.Name, "condemned/") {
			continue
		}
		if err := s.Delete(ctx, info.Name); !errors.Is(err, store.ErrLocked) {
			t.Errorf("deleting %s: %v, want a refusal", info.Name, err)
		}
		kept++
	}
	t.Logf("the store refused to delete all of %d objects", kept)
	lockstep(ctx, t, nil, "volume", "verify", "--level", "data", "--vault", locked.url, "--key-file", locked.key)
	forget(ctx, t, shared.prod, name)
}

// newLockedVault makes a vault as newVault does, in a bucket with Object Lock.
func newLockedVault(ctx context.Context, t *testing.T, name string, immutability *v1alpha1.Immutability) ownVault {
	t.Helper()
	bucket := fmt.Sprintf("%s-%d", name, time.Now().UnixNano())
	c := s3.New(s3.Options{
		BaseEndpoint: &shared.lab.S3.Endpoint, UsePathStyle: true, Region: shared.lab.S3.Region,
		Credentials: credentials.NewStaticCredentialsProvider(shared.lab.S3.AccessKey, shared.lab.S3.SecretKey, ""),
	})
	_, err := c.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &bucket, ObjectLockEnabledForBucket: aws.Bool(true)})
	must(t, err)
	url := fmt.Sprintf("s3://%s/vault?endpoint=%s&region=%s&lock=%s:%s", bucket, shared.lab.S3.Endpoint, shared.lab.S3.Region,
		strings.ToLower(string(immutability.Mode)), immutability.Retention.Duration)
	return newVaultIn(ctx, t, name, bucket, url, immutability)
}
