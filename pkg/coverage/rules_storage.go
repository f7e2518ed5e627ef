package coverage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// These rules look at where data is kept.

func reclaimDelete(s *scope) {
	used := map[*desired.Object]int{}
	for _, w := range s.head.volumes {
		for _, o := range s.head.classesFor(w) {
			used[o]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.head.classes)) {
		for _, o := range s.head.classes[name] {
			policy, set, _ := unstructured.NestedString(o.Object, "reclaimPolicy")
			if set && policy != string(corev1.PersistentVolumeReclaimDelete) || used[o] == 0 {
				continue
			}
			users := "a claim uses"
			if used[o] > 1 {
				users = fmt.Sprintf("%d claims use", used[o])
			}
			s.find(o, fmt.Sprintf("%s the StorageClass %s, which deletes a volume together with its claim", users, name),
				"set reclaimPolicy: Retain (a class cannot be changed: make a new one), or be sure that every claim is protected")
		}
	}
}

func emptyDirDatabase(s *scope) {
	for _, d := range s.head.servings() {
		at, mounted := d.dataMount()
		var message string
		switch {
		case at.EmptyDir != nil:
			message = fmt.Sprintf("%s in the container %s keeps its data in the emptyDir %s: it ends with the pod", d.database.Name, d.container.Name, at.Name)
		case !mounted && !d.database.Cache && len(d.container.Command) == 0 && !d.lasting():
			message = fmt.Sprintf("%s in the container %s has no volume: its data ends with the container", d.database.Name, d.container.Name)
		default:
			continue
		}
		f := s.find(d.Object, message, "give it a claim; or, if there is nothing to lose, say so with "+AnnotationIgnore)
		f.detail = d.container.Name
		if d.database.Cache {
			f.Severity = Warning
		}
	}
}

// lasting says that the container has some volume that outlives its pod: the data may be kept in another place than usual.
func (d serving) lasting() bool {
	return slices.ContainsFunc(d.container.VolumeMounts, func(m corev1.VolumeMount) bool {
		at := slices.IndexFunc(d.pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if at < 0 {
			return true // of a template
		}
		v := d.pod.Volumes[at]
		return v.EmptyDir == nil && v.ConfigMap == nil && v.Secret == nil && v.Projected == nil && v.DownwardAPI == nil
	})
}

// systemPaths are of the node, not of an application.
var systemPaths = []string{"/dev", "/proc", "/sys", "/run", "/var/run", "/etc", "/lib/modules", "/usr", "/var/log", "/boot", "/tmp", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/docker", "/var/lib/cni", "/opt/cni"}

func hostPathData(s *scope) {
	for _, namespace := range slices.Sorted(maps.Keys(s.head.workloads)) {
		for _, w := range s.head.workloads[namespace] {
			if w.GetKind() == "DaemonSet" { // agents of the nodes themselves
				continue
			}
			for _, v := range w.pod.Volumes {
				if v.HostPath == nil || !w.writes(v) {
					continue
				}
				s.find(w.Object, fmt.Sprintf("the data in %s is a directory of whatever node the pod runs on", v.HostPath.Path),
					"use a claim; what is in hostPath volumes of pods is in no restore point").detail = v.Name
			}
		}
	}
	for _, o := range s.head.byKind[volumeKind] {
		if path, found, _ := unstructured.NestedString(o.Object, "spec", "hostPath", "path"); found {
			s.find(o, fmt.Sprintf("the volume %s is the directory %s of a node", o.GetName(), path),
				"use storage that outlives a node; a policy with consistency: Fuzzy can save it, while it is in use")
		}
	}
}

// writes says that a container may write to a volume that holds files of an application.
func (w *workload) writes(v corev1.Volume) bool {
	if t := v.HostPath.Type; t != nil && *t != corev1.HostPathUnset && *t != corev1.HostPathDirectory && *t != corev1.HostPathDirectoryOrCreate {
		return false
	}
	if v.HostPath.Path == "/" || slices.ContainsFunc(systemPaths, func(p string) bool { return within(v.HostPath.Path, p) }) {
		return false
	}
	return slices.ContainsFunc(w.pod.Containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name && !m.ReadOnly })
	})
}

func operatorDatabase(s *scope) {
	for _, d := range s.head.operated {
		answer, why, p := s.head.operatedProtection(d)
		fix := fmt.Sprintf("write a policy whose selector is %s: %s, with a hook in spec.quiesce for the same label; or save it as %s does, and say so with %s",
			d.by.Label, d.GetName(), d.by.Name, AnnotationIgnore)
		if d.by.Label == "" {
			fix = "put a policy without a selector into the namespace; or save them as the operator does, and say so with " + AnnotationIgnore
		}
		switch {
		case p == nil || d.by.Label == "" && answer != Protected:
			found := s.find(d.Object, fmt.Sprintf("%s the volumes of %s %s, and %s", d.makes(), d.GetKind(), d.GetName(), why), fix)
			if d.perhaps {
				found.Severity = Note
			}
		case !d.holdsStill(p):
			if answer == Protected {
				why = "the policy " + p.GetName() + " selects them"
			}
			s.find(d.Object, fmt.Sprintf("%s makes the volumes of %s %s; %s, without a hook that holds the database still", d.by.Name, d.GetKind(), d.GetName(), why), fix)
		}
	}
}

func majorJump(s *scope) {
	type place struct {
		key              object.Key
		owner, container string
	}
	before := map[place]serving{}
	for _, d := range s.base.servings() {
		before[place{object.KeyOf(d.Unstructured), d.Owner, d.container.Name}] = d
	}
	for _, d := range s.head.servings() {
		b, known := before[place{object.KeyOf(d.Unstructured), d.Owner, d.container.Name}]
		if !known || b.database != d.database {
			continue
		}
		old, now := d.database.major(parseImage(b.container.Image).tag), d.database.major(parseImage(d.container.Image).tag)
		if old == "" || now == "" || old == now || s.savedBefore(d) {
			continue
		}
		s.find(d.Object, fmt.Sprintf("%s in the container %s goes from %s to %s; the old version may not read what the new one has written", d.database.Name, d.container.Name, old, now),
			"let the deploy wait for a restore point: onDeploy: Before in the policy, and "+v1alpha1.AnnotationPreDeploy+": "+v1alpha1.PreDeployRequired+" on what deploys it").detail = d.container.Name
	}
}

// savedBefore says that a deploy of the database waits for a point.
func (s *scope) savedBefore(d serving) bool {
	owner := s.head.owners[d.Owner]
	gated := false
	for range len(s.head.owners) {
		if owner == nil {
			break
		}
		gated = gated || owner.Object != nil && owner.Object.GetAnnotations()[v1alpha1.AnnotationPreDeploy] == v1alpha1.PreDeployRequired
		if owner.Kind != desired.HelmRelease {
			break
		}
		owner = s.head.owners[owner.Parent] // the gate is on the Kustomization that brings the release
	}
	return gated && slices.ContainsFunc(s.head.policies[d.GetNamespace()], func(p *policy) bool {
		return p.Spec.OnDeploy.Before() && s.head.together(p.Owner, d.Owner)
	})
}

// quoted lists names, in their order.
func quoted(names []string) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(names))), ", ")
}
