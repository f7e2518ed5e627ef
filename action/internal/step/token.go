package step

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/sethvargo/go-githubactions"
)

// token prints a token of GitHub's for the API server, in the form in which a client of Kubernetes asks for it. Standard output is the
// client's here, not the runner's: there is no mask, and nothing prints the token.
func (j *Job) token(ctx context.Context) error {
	quiet := githubactions.New(githubactions.WithWriter(io.Discard), githubactions.WithGetenv(j.Getenv), githubactions.WithHTTPClient(j.HTTP))
	token, err := quiet.GetIDToken(ctx, j.input("oidc-audience"))
	if err != nil {
		return fmt.Errorf("asking GitHub for a token (the job needs the permission id-token: write): %w", err)
	}
	status := map[string]string{"token": token}
	if expires, ok := expiry(token); ok {
		status["expirationTimestamp"] = expires.UTC().Format(time.RFC3339)
	}
	return json.NewEncoder(j.Out).Encode(map[string]any{
		"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status,
	})
}

// expiry is when a JSON Web Token ends, a little before, so that none ends on its way.
func expiry(token string) (time.Time, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp int64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(data, &claims) != nil || claims.Exp == 0 {
		return time.Time{}, false
	}
	return time.Unix(claims.Exp, 0).Add(-30 * time.Second), true
}
