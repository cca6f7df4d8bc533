# The remote half of a channel: waits for one request and becomes it. POSIX sh; dash, bash and busybox run it.
# M is a random mark, set before. Lines of our own on stdout and stderr begin with it; what stands before the
# first of them came from start-up files. The channel's stdin carries requests, then frames (see feed).
# 4 is the channel's stdin, 5 its stderr; 2 is /dev/null.

# the shell above a command outlives what is sent to the whole group, to report the status
trap : HUP INT QUIT TERM
unset CDPATH
nl='
'

# Reads frames: a number of bytes of input and the bytes, E (end of input), S SIGNAL, or Q (all is done).
# Where they end without Q, whoever sent them has died, or the connection has: then the command goes too.
feed() {
	me=$(exec sh -c 'echo $PPID')
	trap '' HUP INT QUIT TERM
	while IFS= read -r frame; do
		case $frame in
		Q) exit ;;
		E) exec >/dev/null ;;
		'S '*) group "${frame#S }" ;;
		# the second cat takes what a command that reads no more has left
		*) dd bs="$frame" count=1 iflag=fullblock | {
			trap - PIPE
			cat
			exec cat >/dev/null
		} ;;
		esac
	done
	[ -n "$stays" ] && exit
	exec >/dev/null
	kill -s 0 $$ || exit
	group TERM
	n=0
	while [ $n -lt 50 ] && [ -n "$(others)" ]; do
		sleep 0.1 || sleep 1
		n=$((n + 1))
	done
	group KILL
	exit
}

# The processes of this session's group, but for the shell above the command and the one that reads frames.
others() {
	all=$(ps -A -o pid= -o pgid= || ps -o pid,pgid)
	while read -r p g; do
		# the ps itself has gone by now
		[ "$g" = $$ ] && [ "$p" != $$ ] && [ "$p" != "$me" ] && kill -s 0 "$p" && echo "$p"
	done <<-END
		$all
	END
}

group() {
	for p in $(others); do kill -s "$1" "$p"; done
}

# done_ STATUS: the last line on both streams.
done_() {
	printf '%s end %s\n' "$M" "$1"
	printf '%s end\n' "$M" >&5
	exit 0
}

# refuse WHY: instead of a command that has not started.
refuse() {
	printf '%s refused %s\n' "$M" "$1"
	printf '%s end\n' "$M" >&5
	exit 0
}

enter() {
	cd -- "$1" && return
	[ -e "$1" ] || [ -L "$1" ] || refuse ENOENT
	[ -d "$1" ] || refuse ENOTDIR
	refuse EACCES
}

# run INPUT WORDS...: INPUT is `frames`, or `none`.
run() {
	input=$1
	shift
	printf '%s started\n' "$M"
	SHLVL=1
	export SHLVL
	# in a subshell, as dash would tell of a killed command on the stderr that it gave to the command
	if [ "$input" = frames ]; then
		{ feed <&4 5>&- & } | (exec "$@" 2>&5 4<&- 5>&-)
	else
		feed <&4 >/dev/null 5>&- &
		(exec "$@" </dev/null 2>&5 4<&- 5>&-)
	fi
	done_ $?
}

# script INPUT TEXT: a command that is too long for one argument, by a file that removes itself.
script() {
	file=$(mktemp) || refuse ENOSPC
	printf 'rm -f %s\n%s\n' "$file" "$2" >"$file" || refuse ENOSPC
	run "$1" "$SHELL" "$file"
}

# once KEY HASH INPUT WORDS...: runs it, or gives what the first run gave; its output is kept in files.
# The claim appears complete under its name (a hard link), so it is taken by one only, over NFS too.
once() {
	key=$1 hash=$2 input=$3
	shift 3
	dir=${XDG_STATE_HOME:-$HOME/.local/state}/opensshtransport/once
	(umask 077 && mkdir -p "$dir") || refuse EACCES
	find "$dir" -type f -mtime +30 -exec rm -f {} + </dev/null &
	draft=$dir/.$key.$$.$(uname -n)
	(umask 077 && printf '%s\n%s\n%s\n%s\n%s\n' "$hash" "$(uname -n)" "$(boot)" $$ "$(born $$)" >"$draft") || refuse ENOSPC
	if ln "$draft" "$dir/$key"; then
		rm -f "$draft"
		stays=yes
		printf '%s started\n' "$M"
		SHLVL=1
		export SHLVL
		umask=$(umask)
		umask 077
		: >"$dir/$key.out" && : >"$dir/$key.err" || refuse ENOSPC
		umask "$umask"
		if [ "$input" = frames ]; then
			{ feed <&4 5>&- & } | (exec "$@" >>"$dir/$key.out" 2>>"$dir/$key.err" 4<&- 5>&-)
		else
			feed <&4 >/dev/null 5>&- &
			(exec "$@" </dev/null >>"$dir/$key.out" 2>>"$dir/$key.err" 4<&- 5>&-)
		fi
		status=$?
		(umask 077 && echo $status >"$draft") && mv -f "$draft" "$dir/$key.status"
	else
		rm -f "$draft"
		{ read -r claimed && read -r node && read -r booted && read -r pid && read -r start; } <"$dir/$key" || refuse EIO
		[ "$claimed" = "$hash" ] || refuse other-command
		feed <&4 >/dev/null 5>&- &
		while [ ! -f "$dir/$key.status" ]; do
			if [ "$node" = "$(uname -n)" ] && { [ "$booted" != "$(boot)" ] || [ "$start" != "$(born "$pid")" ]; }; then
				# it may have ended between the two looks
				[ -f "$dir/$key.status" ] || refuse cut-down
			fi
			sleep 0.1 || sleep 1
		done
		printf '%s started\n' "$M"
		read -r status <"$dir/$key.status"
	fi
	cat "$dir/$key.out"
	cat "$dir/$key.err" >&5
	done_ "$status"
}

boot() { cat /proc/sys/kernel/random/boot_id || uptime -s || echo unknown; }

# When a process was started; nothing where it has gone.
born() {
	if [ -r /proc/self/stat ]; then
		{ read -r stat <"/proc/$1/stat"; } || return 0
		# the 22nd field (proc(5)), counted after the name, which may have blanks
		set -- ${stat##*) }
		shift 19
		echo "$1"
	else
		ps -o lstart= -p "$1"
	fi
}

stays=
printf '\n%s ready\n' "$M"
printf '\n%s ready\n' "$M" >&5
# A request: L and a number of lines, or B and a number of bytes, of sh.
if [ -z "$request" ]; then
	IFS= read -r size <&4 || exit 0
	case $size in
	L*)
		n=${size#L}
		while [ "$n" -gt 0 ]; do
			IFS= read -r line <&4 || exit 0
			request=$request$line$nl
			n=$((n - 1))
		done
		;;
	B*) request=$(dd bs="${size#B}" count=1 iflag=fullblock <&4) ;;
	*) exit 0 ;;
	esac
fi
eval "$request"
