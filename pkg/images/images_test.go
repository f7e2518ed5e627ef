package images

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serve starts a registry with the image shop/front:1, for whoever gives the password, if there is one. It returns its host.
func serve(t *testing.T, password string) string {
	t.Helper()
	inner := registry.New()
	open := true
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, given, _ := r.BasicAuth(); !open && password != "" && given != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host + "/shop/front:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, empty.Image); err != nil {
		t.Fatal(err)
	}
	open = false
	return host
}

func pull(name, kind, data string) corev1.Secret {
	return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Data: map[string][]byte{kind: []byte(data)}}
}

func login(host, password string) corev1.Secret {
	both := base64.StdEncoding.EncodeToString([]byte("me:" + password))
	return pull("login", corev1.DockerConfigJsonKey, fmt.Sprintf(`{"auths": {"https://%s": {"auth": %q}}}`, host, both))
}

func TestCheck(t *testing.T) {
	public, private := serve(t, ""), serve(t, "hunter2")
	digest, err := empty.Image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	legacy := pull("old", corev1.DockerConfigKey, fmt.Sprintf(`{%q: {"username": "me", "password": "hunter2"}}`, private))
	for _, tt := range []struct {
		name    string
		image   string
		secrets []corev1.Secret
		missing bool
		says    string // empty: it can be had
	}{
		{"tag", public + "/shop/front:1", nil, false, ""},
		{"digest", public + "/shop/front@" + digest.String(), nil, false, ""},
		{"no such tag", public + "/shop/front:2", nil, true, "does not have it"},
		{"no such repository", public + "/shop/back:1", nil, true, "does not have it"},
		{"no such digest", public + "/shop/front@sha256:" + strings.Repeat("0", 64), nil, true, "does not have it"},
		{"no credentials", private + "/shop/front:1", nil, false, "status 401"},
		{"wrong credentials", private + "/shop/front:1", []corev1.Secret{login(private, "hunter1")}, false, "status 401"},
		{"credentials of another registry", private + "/shop/front:1", []corev1.Secret{login(public, "hunter2")}, false, "status 401"},
		{"credentials", private + "/shop/front:1", []corev1.Secret{login(private, "hunter2")}, false, ""},
		{"credentials of the directory", private + "/shop/front:1", []corev1.Secret{login(private+"/shop", "hunter2")}, false, ""},
		{"credentials of another directory", private + "/shop/front:1", []corev1.Secret{login(private+"/sho", "hunter2")}, false, "status 401"},
		{"second credentials", private + "/shop/front:1", []corev1.Secret{login(private, "hunter1"), login(private, "hunter2")}, false, ""},
		{"old kind of credentials", private + "/shop/front:1", []corev1.Secret{legacy}, false, ""},
		{"no such tag, with credentials", private + "/shop/front:2", []corev1.Secret{login(private, "hunter2")}, true, "does not have it"},
		{"no pull secret", public + "/shop/front:1", []corev1.Secret{pull("x", "password", "hunter2")}, false, ""},
		{"nobody there", "127.0.0.1:1/shop/front:1", nil, false, "does not answer"},
		{"no name of an image", "Shop Front", nil, false, "cannot be read"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(t.Context(), []string{tt.image}, tt.secrets)[0]
			if errors.Is(err, ErrMissing) != tt.missing || (err == nil) != (tt.says == "") {
				t.Fatalf("got %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter")) {
				t.Errorf("got %q, want %q", err, tt.says)
			}
		})
	}
}

func TestCheckMany(t *testing.T) {
	host := serve(t, "")
	var images []string
	for i := range 20 {
		images = append(images, fmt.Sprintf("%s/shop/front:%d", host, i))
	}
	for i, err := range Check(t.Context(), images, nil) {
		if (err == nil) != (i == 1) {
			t.Errorf("%s: %v", images[i], err)
		}
	}
}

// TestCheckSilent: a registry that does not answer is no proof, and does not hold a restore up for ever.
func TestCheckSilent(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := Check(ctx, []string{strings.TrimPrefix(server.URL, "http://") + "/shop/front:1"}, nil)[0]
	if err == nil || errors.Is(err, ErrMissing) {
		t.Errorf("got %v", err)
	}
}
