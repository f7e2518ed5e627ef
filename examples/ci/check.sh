#!/bin/sh
# Lockstep in any pipeline, or before a push: exit code 0 is clean, 1 has findings, 2 could not be checked.
# BASE is the branch that the change is for; CI_OUTPUT the directory for reports.
set -u

base=${BASE:-origin/main}
out=${CI_OUTPUT:-.}

lockstep check --base="$base"
code=$?
if [ "$code" -lt 2 ]; then
  lockstep check --quiet --base="$base" --fail-on=off --format=json --output="$out/lockstep.json"
  lockstep check --quiet --base="$base" --fail-on=off --format=junit --output="$out/lockstep.xml"
fi
exit "$code"
