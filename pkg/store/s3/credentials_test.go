package s3_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store/s3"
)

// A pod's web identity (IRSA) is exchanged for keys, which sign the requests.
func TestWebIdentity(t *testing.T) {
	var exchanged atomic.Value
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		exchanged.Store(r.PostForm.Get("Action") + " " + r.PostForm.Get("RoleArn") + " " + r.PostForm.Get("WebIdentityToken"))
		io.WriteString(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>
<AccessKeyId>ROLEKEY</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>session</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
	}))
	defer sts.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("the pod's token"), 0o600); err != nil {
		t.Fatal(err)
	}
	withoutAmbient(t)
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/dr")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)

	server := &recorder{Handler: fake(t)}
	s := open(t, server, func(o *s3.Options) { o.AccessKeyID, o.SecretAccessKey = "", "" })
	if err := s.Put(t.Context(), "x", nil); err != nil {
		t.Fatal(err)
	}
	if got, want := exchanged.Load(), "AssumeRoleWithWebIdentity arn:aws:iam::1:role/dr the pod's token"; got != want {
		t.Errorf("exchanged %q, want %q", got, want)
	}
	header := server.requests[0].Header
	if !strings.Contains(header.Get("Authorization"), "Credential=ROLEKEY/") || header.Get("X-Amz-Security-Token") != "session" {
		t.Errorf("signed as %q with token %q", header.Get("Authorization"), header.Get("X-Amz-Security-Token"))
	}
}

// The keys of the environment are used when none are given, and only then.
func TestEnvironment(t *testing.T) {
	withoutAmbient(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	for want, id := range map[string]string{"ENVKEY": "", "GIVEN": "GIVEN"} {
		server := &recorder{Handler: fake(t)}
		s := open(t, server, func(o *s3.Options) { o.AccessKeyID, o.SecretAccessKey = id, id })
		if err := s.Put(t.Context(), "x", nil); err != nil {
			t.Fatal(err)
		}
		if got := server.requests[0].Header.Get("Authorization"); !strings.Contains(got, "Credential="+want+"/") {
			t.Errorf("signed as %q, want %s", got, want)
		}
	}
}

// withoutAmbient hides the credentials of whoever runs the test.
func withoutAmbient(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		t.Setenv(name, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}
