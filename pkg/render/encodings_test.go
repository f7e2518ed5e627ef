package render

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unicode/utf16"
)

// TestEncodings has manifests as editors of Windows write them. With a byte order mark they are read, as kustomize, kubectl and Argo CD do;
// in UTF-16 without one, which is YAML to none of them, they are named as not rendered.
func TestEncodings(t *testing.T) {
	utf16 := func(order binary.AppendByteOrder, mark string) func(string) string {
		return func(s string) string {
			var out []byte
			for _, unit := range utf16.Encode([]rune(mark + s)) {
				out = order.AppendUint16(out, unit)
			}
			return string(out)
		}
	}
	encodings := []struct {
		name   string
		encode func(string) string
		read   bool
	}{
		{"UTF-8", func(s string) string { return s }, true},
		{"UTF-8 with a mark", func(s string) string { return "\ufeff" + s }, true},
		{"UTF-16, big", utf16(binary.BigEndian, "\ufeff"), true},
		{"UTF-16, little", utf16(binary.LittleEndian, "\ufeff"), true},
		{"UTF-16, big, without a mark", utf16(binary.BigEndian, ""), false},
		{"UTF-16, little, without a mark", utf16(binary.LittleEndian, ""), false},
	}
	claim := func(name string) string {
		return "kind: PersistentVolumeClaim\r\napiVersion: v1\r\nmetadata: {name: " + name + ", namespace: shop}\r\n"
	}
	claims := claim("a") + "---\r\n" + claim("b")
	application := "kind: Application\napiVersion: argoproj.io/v1alpha1\nmetadata: {name: shop, namespace: argocd}\n" +
		"spec: {source: {repoURL: https://git.example.com/r.git, path: apps}, destination: {namespace: shop}}\n"
	kustomization := "kind: Kustomization\napiVersion: kustomize.toolkit.fluxcd.io/v1\nmetadata: {name: shop, namespace: flux-system}\n" +
		"spec: {path: ./apps, sourceRef: {kind: GitRepository, name: flux-system}}\n"
	places := map[string]func(encode func(string) string) map[string]string{
		"directory": func(e func(string) string) map[string]string { return map[string]string{"apps/a.yaml": e(claims)} },
		"manifest": func(e func(string) string) map[string]string {
			return map[string]string{"apps/a.yaml": e(claims), "apps/kustomization.yaml": "resources: [a.yaml]\n"}
		},
		"kustomization": func(e func(string) string) map[string]string {
			return map[string]string{"apps/a.yaml": claims, "apps/kustomization.yaml": e("resources:\n- a.yaml\n")}
		},
		"Application": func(e func(string) string) map[string]string {
			return map[string]string{"apps/a.yaml": claims, "root/shop.yaml": e(application)}
		},
		"Argo CD": func(e func(string) string) map[string]string {
			return map[string]string{"apps/a.yaml": e(claims), "root/shop.yaml": application}
		},
		"Kustomization": func(e func(string) string) map[string]string {
			return map[string]string{"apps/a.yaml": claims, "root/shop.yaml": e(kustomization)}
		},
		"Flux": func(e func(string) string) map[string]string {
			return map[string]string{"apps/a.yaml": e(claims), "root/shop.yaml": kustomization}
		},
	}
	for name, files := range places {
		for _, encoding := range encodings {
			t.Run(name+"/"+encoding.name, func(t *testing.T) {
				root := tree(t, files(encoding.encode))
				state := repository(t, root, Options{})
				var found []string
				for _, o := range state.Objects {
					if o.GetKind() == "PersistentVolumeClaim" {
						found = append(found, fmt.Sprintf("%s:%d %s", o.File, o.Line, o.GetName()))
					}
				}
				want := "apps/a.yaml:1 a, apps/a.yaml:5 b"
				if strings.HasPrefix(encoding.name, "UTF-16") && (name == "manifest" || name == "Flux") {
					want = "apps/a.yaml:1 a" // kustomize finds no separator in UTF-16, and takes the first document
				}
				if got := strings.Join(found, ", "); encoding.read && (got != want || len(state.Gaps) > 0) {
					t.Errorf("%s is read of it, and not rendered is %v", got, state.Gaps)
				}
				if !encoding.read && len(state.Gaps) == 0 {
					t.Errorf("nothing says that it cannot be read:\n%s", lines(state))
				}
				if name != "manifest" && name != "kustomization" {
					return
				}
				if built, err := Render(t.Context(), root, "apps"); encoding.read != (err == nil) || encoding.read && len(built) != len(found) {
					t.Errorf("kustomize makes %d objects of it: %v", len(built), err)
				}
			})
		}
	}
}

// TestEncrypted has a manifest that git-crypt keeps from who has no key.
func TestEncrypted(t *testing.T) {
	state := repository(t, tree(t, map[string]string{"apps/a.yaml": configMap("a", "x"), "apps/b.yaml": "\x00GITCRYPT\x00\x13\x37"}), Options{})
	if len(state.Gaps) != 1 || state.Gaps[0].File != "apps/b.yaml" || !strings.Contains(state.Gaps[0].Why, "git-crypt unlock") {
		t.Errorf("not rendered is %v", state.Gaps)
	}
}
