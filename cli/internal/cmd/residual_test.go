// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func TestResidualDiff(t *testing.T) {
	c := startCluster(t, true)
	ns := c.namespace(t, "residual")
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }
	c.create(t, &corev1.Secret{ObjectMeta: meta("login"), Data: map[string][]byte{"password": []byte("hunter2")}})
	c.create(t, policy(ns, "shop"))
	fromGit := &corev1.ConfigMap{ObjectMeta: meta("settings")}
	fromGit.Labels = map[string]string{v1alpha1.LabelApplicationName: "shop", v1alpha1.LabelApplicationNamespace: ns}
	c.create(t, fromGit)

	short := c.run(t, "residual", "diff", "-n", ns)
	short.want(t, fault.Done, "KIND", "IN/OUT", "Secret", "login", "IN", "not in Git, and nobody makes it again", "namespace residual: 1 object not in Git")
	short.lacks(t, "settings", "hunter2", "password")
	c.run(t, "residual", "diff", "-n", ns, "--all").want(t, fault.Done, "ConfigMap", "settings", "OUT", "in Git: Lockstep applied it for residual/shop")
	c.run(t, "residual", "diff", "-n", ns, "-o", "json").want(t, fault.Done, `"namespace": "residual"`, `"verdict": "in"`, `"name": "login"`)
	c.run(t, "residual", "diff", "-n", "nowhere").want(t, fault.Absent, `there is no namespace "nowhere"`, "-n")

	web := &appsv1.Deployment{ObjectMeta: meta("web"), Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "web", Image: "web", EnvFrom: []corev1.EnvFromSource{
				{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}}}}}}}},
	}}
	web.Labels = fromGit.Labels
	c.create(t, web)
	c.run(t, "residual", "diff", "-n", ns).want(t, fault.Absent, "MISSING", "Deployment web needs it", "1 object that Git needs is missing", "mark the reference as optional")
}

func (o outcome) lacks(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if strings.Contains(o.out+o.err, text) {
			t.Errorf("%q is in:\n%s%s", text, o.out, o.err)
		}
	}
}
