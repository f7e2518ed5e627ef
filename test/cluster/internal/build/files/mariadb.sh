#!/bin/sh
# Starts MariaDB as the well-known image of that name does, as far as tests
# need it: MARIADB_ROOT_PASSWORD on the first start.
set -eu
case ${1:-} in '' | -*) set -- mariadbd "$@" ;; esac
data=/var/lib/mysql/data
if [ "$1" = mariadbd ]; then
	if [ ! -d "$data" ]; then
		# Only a data directory that is complete gets its name: a start that is
		# killed half-way begins anew.
		rm -rf "$data.new"
		mariadb-install-db --datadir="$data.new" --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve
		mariadbd --datadir="$data.new" --bootstrap <<SQL
flush privileges;
alter user root@localhost identified by '${MARIADB_ROOT_PASSWORD:?is required for the first start}';
SQL
		mv "$data.new" "$data"
	fi
	set -- "$@" --datadir="$data" --bind-address=0.0.0.0
fi
exec "$@"
