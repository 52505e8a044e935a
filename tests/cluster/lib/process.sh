# Steps, secrets, and processes that outlive the script: each in a session of its own, known by its pid file alone.

began=$(date +%s%N)

step() { printf '%7.1fs  %s\n' "$(($(date +%s%N) - began))e-9" "$*" >&2; }

fail() {
	echo "tests/cluster/cluster: $*" >&2
	exit 1
}

# One `up` or `down` at a time; descriptor 8 is closed in everything that is launched.
lock() {
	[ "$(id -u)" = 0 ] || fail "must run as root, since it makes network and mount namespaces; use sudo"
	exec 8>"/run/$(echo "$state" | tr / _).lock"
	flock 8
}

# A random secret of the cluster, made once.
secret() {
	local file=$state/secrets/$1
	if [ ! -f "$file" ]; then
		(umask 077 && mkdir -p "$state/secrets" && openssl rand -hex 16 >"$file.new" && mv "$file.new" "$file")
	fi
	cat "$file"
}

# A pid alone may be somebody else's by now; with its start time it is ours.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20 || true; }

pid_of() { cut -d' ' -f1 "$state/run/$1.pid"; }

alive() {
	local pid time
	read -r pid time 2>/dev/null <"$state/run/$1.pid" || return 1
	[ -n "$time" ] && [ "$(started_at "$pid")" = "$time" ] && ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null
}

# launch NAME COMMAND…: the log is appended to, so that a restart keeps what came before.
launch() {
	local name=$1
	shift
	mkdir -p "$state/run" "$state/log"
	: >"$state/run/$name.new"
	setsid bash -c 'echo "$$" >"$1"; shift; exec "$@"' _ "$state/run/$name.new" "$@" \
		</dev/null >>"$state/log/$name.log" 2>&1 8>&- &
	until [ -s "$state/run/$name.new" ]; do sleep 0.01; done
	local pid
	pid=$(cat "$state/run/$name.new")
	echo "$pid $(started_at "$pid")" >"$state/run/$name.pid"
	rm "$state/run/$name.new"
}

# await NAME SECONDS COMMAND…: until the command succeeds; the process that it speaks of must live meanwhile.
await() {
	local name=$1 end=$((SECONDS + $2))
	shift 2
	until "$@" >/dev/null 2>&1; do
		alive "$name" || give_up "$name" "ended"
		[ $SECONDS -lt $end ] || give_up "$name" "does not answer"
		sleep 0.1
	done
}

give_up() {
	tail -n 15 "$state/log/$1.log" >&2
	fail "$1 $2; its log is $state/log/$1.log"
}

# halt NAME [SIGNAL]: gone when it returns. What ignores the signal for 5 s is killed: the API server would wait for
# the last of its watches.
halt() {
	local pid end=$((SECONDS + 5)) signal=${2:-TERM}
	alive "$1" || return 0
	pid=$(pid_of "$1")
	# To PostgreSQL TERM means: once everybody has gone.
	[ "$1 $signal" = "postgres TERM" ] && signal=INT
	kill -s "$signal" "$pid"
	while alive "$1"; do
		[ $SECONDS -lt $end ] || kill -s KILL "$pid" 2>/dev/null || true
		sleep 0.05
	done
	rm -f "$state/run/$1.pid"
}
