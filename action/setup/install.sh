#!/usr/bin/env bash
# Puts lockstep and lockstep-action on the PATH of the job: from a directory, from the sources, or from a release whose checksum is right.
# Inputs are INPUT_VERSION, INPUT_SHA256 and INPUT_BINARY; LOCKSTEP_RELEASES is where releases are found.
set -euo pipefail

releases=${LOCKSTEP_RELEASES:-https://github.com/lockstep-dr/lockstep/releases}
case "$releases" in http://127.0.0.1:*) proto='=http' ;; *) proto='=https' ;; esac # the machine itself: tests
version=${INPUT_VERSION:-latest}
dir=${RUNNER_TEMP:?}/lockstep-$RANDOM$RANDOM
mkdir -p "$dir"

fail() {
  echo "::error title=Lockstep setup::$1"
  exit 1
}

digest() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

fetch() {
  curl --fail --silent --show-error --location --proto "$proto" --proto-redir "$proto" --retry 3 --max-time 300 --output "$2" "$1"
}

download() {
  local os arch base name want got
  case "$(uname -s)" in Linux) os=linux ;; Darwin) os=darwin ;; *) fail "there is no release for $(uname -s)" ;; esac
  case "$(uname -m)" in x86_64 | amd64) arch=amd64 ;; aarch64 | arm64) arch=arm64 ;; *) fail "there is no release for $(uname -m)" ;; esac
  case "$version" in
    latest) base=$releases/latest/download ;;
    v[0-9]*) base=$releases/download/$version ;;
    *) fail "the input \"version\" must be latest, source, or a release as v1.2.3" ;;
  esac
  name=lockstep_${os}_${arch}.tar.gz
  fetch "$base/$name" "$dir/$name" || fail "release $version could not be fetched"
  want=${INPUT_SHA256:-}
  if [ -z "$want" ]; then
    fetch "$base/checksums.txt" "$dir/checksums.txt" || fail "the checksums of release $version could not be fetched"
    want=$(awk -v name="$name" '$2 == name || $2 == "*" name {print $1; exit}' "$dir/checksums.txt")
  fi
  got=$(digest "$dir/$name")
  [ -n "$want" ] && [ "$want" = "$got" ] || fail "the archive of release $version is not what it should be: its SHA-256 is $got, not ${want:-in the list}"
  tar -xzf "$dir/$name" -C "$dir" lockstep lockstep-action
  rm "$dir/$name"
}

if [ -n "${INPUT_BINARY:-}" ]; then
  dir=$(cd "$INPUT_BINARY" && pwd) || fail "the input \"binary\" names no directory"
elif [ -n "${LOCKSTEP_SET_UP:-}" ]; then
  dir=$LOCKSTEP_SET_UP # by an earlier step of this job
elif [ "$version" = source ]; then
  command -v go >/dev/null || fail "building from the sources needs Go: use actions/setup-go before"
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
  (cd "$root" && CGO_ENABLED=0 go build -trimpath -o "$dir/lockstep" ./cli/lockstep && CGO_ENABLED=0 go build -trimpath -o "$dir/lockstep-action" ./action)
else
  download
fi

for program in lockstep lockstep-action; do
  [ -x "$dir/$program" ] || fail "$dir holds no program $program"
done
said=$("$dir/lockstep" --version)
echo "$dir" >>"$GITHUB_PATH"
echo "LOCKSTEP_SET_UP=$dir" >>"$GITHUB_ENV"
echo "version=$said" >>"$GITHUB_OUTPUT"
echo "lockstep $said"
