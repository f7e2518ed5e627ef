package step

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// access is how a step reaches the cluster.
type access struct {
	context string
	env     []string
	// dir holds a kubeconfig that was made for the step; empty if the job has its own.
	dir string
}

func (a access) flags(namespace string) []string {
	var flags []string
	if a.context != "" {
		flags = append(flags, "--context="+a.context)
	}
	if namespace != "" {
		flags = append(flags, "--namespace="+namespace)
	}
	return flags
}

func (a access) remove() {
	if a.dir != "" {
		_ = os.RemoveAll(a.dir) // the runner empties its directory after the job, too
	}
}

// access is by the kubeconfig of the input, by a server with a token of its own or of GitHub's (OIDC), or by what an earlier step has
// prepared in KUBECONFIG.
func (j *Job) access() (access, error) {
	a := access{context: j.input("context")}
	config, server := j.input("kubeconfig"), j.input("server")
	var err error
	switch {
	case config != "" && server != "":
		return a, errors.New("give the input \"kubeconfig\" or \"server\", not both")
	case config == "" && server == "":
		return a, nil
	case server != "":
		if config, err = j.kubeconfig(server); err != nil {
			return a, err
		}
	}
	if err := j.maskIn([]byte(config)); err != nil {
		return a, err
	}
	if a.dir, err = j.scratch(); err != nil {
		return a, err
	}
	file := filepath.Join(a.dir, "kubeconfig")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		a.remove()
		return a, fmt.Errorf("writing the kubeconfig: %w", err)
	}
	a.env = []string{"KUBECONFIG=" + file}
	return a, nil
}

// kubeconfig is one for a server. GitHub's tokens live for minutes: with an audience, lockstep asks this program for one whenever it
// needs one.
func (j *Job) kubeconfig(server string) (string, error) {
	if !strings.HasPrefix(server, "https://") {
		return "", fmt.Errorf("the input \"server\" must begin with https://: a token would go to it")
	}
	token, audience := j.input("cluster-token"), j.input("oidc-audience")
	user := map[string]any{}
	switch {
	case (token == "") == (audience == ""):
		return "", errors.New("the input \"server\" needs one of \"cluster-token\" and \"oidc-audience\"")
	case token != "":
		user["token"] = token
	default:
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("finding this program: %w", err)
		}
		user["exec"] = map[string]any{
			"apiVersion": "client.authentication.k8s.io/v1", "command": self, "args": []string{"token"}, "interactiveMode": "Never",
			"env": []map[string]string{{"name": "INPUT_OIDC_AUDIENCE", "value": audience}},
		}
	}
	cluster := map[string]any{"server": server}
	if ca := j.input("certificate-authority"); ca != "" {
		cluster["certificate-authority-data"] = []byte(ca + "\n")
	}
	const name = "lockstep"
	data, err := yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": name,
		"clusters": []any{map[string]any{"name": name, "cluster": cluster}},
		"users":    []any{map[string]any{"name": name, "user": user}},
		"contexts": []any{map[string]any{"name": name, "context": map[string]any{"cluster": name, "user": name}}},
	})
	if err != nil {
		return "", fmt.Errorf("writing the kubeconfig: %w", err)
	}
	return string(data), nil
}

// maskIn hides the secrets of a kubeconfig in the log: the runner knows a secret as a whole, not its parts.
func (j *Job) maskIn(config []byte) error {
	var c struct {
		Users []struct {
			User struct {
				Token         string `json:"token"`
				Password      string `json:"password"`
				ClientKeyData string `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(config, &c); err != nil {
		return errors.New("the input \"kubeconfig\" is not YAML") // its text may hold a secret
	}
	for _, u := range c.Users {
		for _, secret := range []string{u.User.Token, u.User.Password, u.User.ClientKeyData} {
			if secret != "" {
				j.action.AddMask(secret)
			}
		}
	}
	return nil
}
