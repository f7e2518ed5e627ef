# Holds a container's application still for a bounded time.
#
#   sh -c THIS lockstep freeze TOKEN SECONDS PRE POST
#   sh -c THIS lockstep thaw TOKEN POST
#
# PRE and POST are quoted command lines. The answer is a word on standard output; what the commands print goes to standard error.
# Whoever renames the file "armed" runs POST: the watchdog when the time is over, or thaw. So it takes nobody outside to let the
# application go on, and whoever asks later learns whether it was still held.
set -u
mode=$1 token=$2
places='/dev/shm /tmp /run'

stop_pre() {
	read -r pid 2>/dev/null <"$dir/pid" || return 0
	kill "$pid" 2>/dev/null || return 0
	sleep 1
	kill -9 "$pid" 2>/dev/null
}

note() {
	echo "$1" >"$dir/done.new" && mv "$dir/done.new" "$dir/done"
}

freeze() {
	seconds=$1 pre=$2 post=$3
	dir=
	for place in $places; do
		if [ -d "$place" ] && [ -w "$place" ]; then
			dir=$place/lockstep-$token
			break
		fi
	done
	[ -n "$dir" ] || { echo nowhere && return; }
	for old in "$place"/lockstep-*; do # of other attempts: this one's says that it was begun before
		if [ "$old" != "$dir" ] && [ -e "$old/done" ]; then rm -rf "$old"; fi
	done
	mkdir -m 700 "$dir" 2>/dev/null || { echo begun && return; }
	: >"$dir/armed"
	# By exec, as a shell keeps what it only redirects, and whoever asked would wait for the watchdog's end.
	(exec </dev/null >/dev/null 2>&1 && watch) &
	(eval "exec $pre") </dev/null >&2 &
	pid=$!
	echo "$pid" >"$dir/pid"
	wait "$pid"
	code=$?
	rm -f "$dir/pid"
	if [ ! -e "$dir/armed" ]; then
		echo struck
	elif [ "$code" -ne 0 ]; then
		echo "failed $code"
	else
		echo frozen
	fi
}

# watch waits in short naps: it ends by itself soon after it is not needed any more.
watch() {
	n=0
	while [ "$n" -lt "$seconds" ]; do
		[ -e "$dir/armed" ] || return
		sleep 1
		n=$((n + 1))
	done
	mv "$dir/armed" "$dir/struck" || return
	stop_pre
	n=0
	until (eval "exec $post"); do
		n=$((n + 1))
		[ "$n" -lt 60 ] || return
		sleep 1
	done
	note struck
}

thaw() {
	post=$1
	dir=
	for place in $places; do
		if [ -d "$place/lockstep-$token" ]; then dir=$place/lockstep-$token; fi
	done
	[ -n "$dir" ] || { echo never && return; }
	outcome=struck
	if mv "$dir/armed" "$dir/thawing" 2>/dev/null || [ -e "$dir/thawing" ]; then
		outcome=thawed
		stop_pre
	else
		n=0
		while [ "$n" -lt 5 ] && [ ! -e "$dir/done" ]; do
			sleep 1
			n=$((n + 1))
		done
	fi
	if [ ! -e "$dir/done" ]; then
		(eval "exec $post") </dev/null >&2
		code=$?
		[ "$code" -eq 0 ] || { echo "failed $code" && return; }
		note "$outcome"
	fi
	read -r outcome <"$dir/done"
	echo "$outcome"
}

shift 2
"$mode" "$@"
