#!/bin/sh
# Options alone mean: run the server with them.
set -eu
case ${1:-} in -* | *.conf) set -- redis-server "$@" ;; esac
exec "$@"
