#!/bin/sh
# Starts PostgreSQL as the well-known image of that name does, as far as tests
# need it: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, PGDATA, and *.sql in
# /docker-entrypoint-initdb.d on the first start.
set -eu
if [ "${1#-}" != "$1" ]; then set -- postgres "$@"; fi
if [ "$1" = postgres ] && [ ! -s "$PGDATA/PG_VERSION" ]; then
	user=${POSTGRES_USER:-postgres}
	db=${POSTGRES_DB:-$user}
	mkdir -p "$PGDATA"
	chmod 700 "$PGDATA"
	# Only a data directory that is complete gets its name: a start that is
	# killed half-way begins anew.
	new=$PGDATA.new
	rm -rf "$new"
	pw=$(mktemp)
	printf '%s\n' "${POSTGRES_PASSWORD:?is required for the first start}" >"$pw"
	initdb -D "$new" -U "$user" --pwfile="$pw" --encoding=UTF8 --locale=C.UTF-8 \
		--auth-local=trust --auth-host=scram-sha-256 --data-checksums --no-sync
	rm -f "$pw"
	echo "host all all all scram-sha-256" >>"$new/pg_hba.conf"
	echo "listen_addresses = '*'" >>"$new/postgresql.conf"
	pg_ctl -D "$new" -w -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start
	if [ "$db" != postgres ]; then createdb -h /tmp -U "$user" "$db"; fi
	for f in /docker-entrypoint-initdb.d/*.sql; do
		[ -f "$f" ] || continue
		psql -h /tmp -U "$user" -d "$db" -v ON_ERROR_STOP=1 -f "$f"
	done
	pg_ctl -D "$new" -w -m fast stop
	rmdir "$PGDATA"
	mv "$new" "$PGDATA"
fi
exec "$@"
