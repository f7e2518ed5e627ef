package mover_test

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// Two vaults in one volume of the controller have it mounted once; each place is told by the vault's URL.
func TestCopyJob(t *testing.T) {
	nfs := func(url, key string) mover.VaultAccess {
		return mover.VaultAccess{
			URL: url, KeySecret: key, Mounts: []corev1.VolumeMount{{Name: "vault", MountPath: "/vaults"}},
			Volumes: []corev1.Volume{{Name: "vault", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "nfs"}}}},
		}
	}
	job, err := mover.NewCopyJob(mover.CopySpec{Name: "ls-1", Image: "image", Point: "p", Recheck: true, From: nfs("file:///vaults/a", "a"), To: nfs("file:///vaults/b", "b")})
	if err != nil {
		t.Fatal(err)
	}
	c := job.Spec.Template.Spec.Containers[0]
	paths := map[string]int{}
	for _, m := range c.VolumeMounts {
		paths[m.MountPath]++
	}
	if paths["/vaults"] != 1 || paths["/lockstep/from-key"] != 1 || paths["/lockstep/to-key"] != 1 {
		t.Errorf("mounts %v", paths)
	}
	var tasks []mover.Task
	if err := json.Unmarshal([]byte(c.Env[0].Value), &tasks); err != nil {
		t.Fatal(err)
	}
	from, to := mover.PlaceOf(tasks, "file:///vaults/a"), mover.PlaceOf(tasks, "file:///vaults/b")
	if from.Key != "/lockstep/from-key/identity" || to.Key != "/lockstep/to-key/identity" || from.Env == to.Env || !tasks[0].Recheck {
		t.Errorf("%+v, %+v, %+v", from, to, tasks)
	}
	if at := mover.PlaceOf([]mover.Task{{Action: mover.ActionSave, VaultURL: "s3://b"}}, "s3://b"); at.Key != mover.KeyFile || at.Env != "AWS_" {
		t.Errorf("a save: %+v", at)
	}
}
