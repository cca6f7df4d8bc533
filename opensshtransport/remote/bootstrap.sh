#!/bin/sh
# The remote half of a channel: waits for one request and becomes it. POSIX sh; dash, bash and busybox run it.
# ossh_mark is a random mark, set before. The first line of our own on stdout and stderr begins with it, and announces
# another, for all later ones (see secret); what comes before it is from start-up files. The channel's stdin carries
# requests, then frames (see feed). ossh_request may have come with us; then ossh_begins says how it begins:
# `idle` (at once, if stdin is silent), `told` (by a word on stdin), `anyhow` (nothing comes on stdin).
# 4 is the channel's stdin, 5 its stderr; 2 is /dev/null.
# shellcheck disable=SC2154 # ossh_mark, ossh_request and ossh_begins are set before
# Variables of the shell that becomes the command begin with ossh_: start-up files may have exported others.

# the parent shell survives signals to the whole group, to report the status
trap : HUP INT QUIT ALRM PIPE TERM USR1 USR2
ossh_nl='
'

# Reads frames: a number of bytes of input and the bytes, E (end of input), S SIGNAL, K SECONDS (see finish), P
# (answer by `heard`), or Q (all is done). Empty lines are for start-up files that read one; G has been heard. Where they end without Q,
# the sender or the connection has died: then the command is ended too, unless A came.
feed() {
	own_pid
	trap '' HUP INT QUIT ALRM TERM USR1 USR2
	while IFS= read -r frame; do
		case $frame in
		'' | G) ;;
		A) ossh_stays=yes ;;
		P) kill -s USR1 "$ossh_watch" ;;
		Q) exit ;;
		E) exec >/dev/null ;;
		'S '*) group "${frame#S }" ;;
		'K '*)
			exec >/dev/null
			finish "${frame#K }"
			exit
			;;
		# the second cat reads what a command that has stopped reading has left
		*) dd bs="$frame" count=1 iflag=fullblock | {
			trap - PIPE
			cat
			exec cat >/dev/null
		} ;;
		esac
	done
	[ -n "$ossh_stays" ] && exit
	exec >/dev/null
	kill -s 0 $$ || exit
	finish 5
	exit
}

# own_pid: sets `me` to the process number of this subshell.
own_pid() { read -r me _ </proc/self/stat || me=$(exec sh -c 'echo $PPID'); }

# If a command leaves its input unread, the end of the sender does not reach feed. But what is
# written comes back as an error when there is nobody to read it; the first time only to ssh's master.
watch() {
	trap 'printf "%s heard\n" "$ossh_mark"' USR1
	trap 'kill -s KILL $!; exit' USR2
	trap '' HUP INT QUIT ALRM TERM PIPE
	own_pid
	while :; do
		(trap - HUP INT QUIT TERM && exec sleep 5 >/dev/null) &
		wait $!
		# the parent shell may have been killed, and does not wait then; the session ends when we do
		kill -s 0 $$ || exit
		printf '%s here\n' "$ossh_mark" || break
	done
	# more is to come after the command's own end
	trap '' USR2
	[ -n "$ossh_stays" ] || finish 5
}

# finish SECONDS: ends the group by TERM, and after so many seconds by KILL what is left of it.
finish() {
	group TERM
	end=$(($(date +%s) + $1))
	while [ "$(date +%s)" -lt "$end" ] && [ -n "$(others)" ]; do
		sleep 0.1 || sleep 1
	done
	group KILL
	# if nobody reads any more, the parent shell is stuck writing its last line
	end=$(($(date +%s) + 2))
	while [ "$(date +%s)" -lt "$end" ] && kill -s 0 $$; do
		sleep 0.1 || sleep 1
	done
	kill -s KILL $$
}

# The processes of this session's group, except for the command's parent shell and those of feed and watch.
others() {
	all=$(ps -A -o pid= -o pgid= -o ppid= || ps -o pid,pgid,ppid)
	while read -r p g parent; do
		[ "$g" = $$ ] || continue
		case $p in "$$" | "$me" | "$ossh_watch") continue ;; esac
		# the shell that does this, and the sleep of watch; the ps itself has ended by now
		case $parent in "$me" | "$ossh_watch") continue ;; esac
		kill -s 0 "$p" && echo "$p"
	done <<-END
		$all
	END
}

group() {
	for p in $(others); do kill -s "$1" "$p"; done
}

# done_ STATUS: the last line on both streams.
done_() {
	printf '%s end %s\n' "$ossh_mark" "$1"
	printf '%s end\n' "$ossh_mark" >&5
	exit 0
}

# refuse WHY: says why a command has not started.
refuse() {
	printf '%s refused %s\n' "$ossh_mark" "$1"
	printf '%s end\n' "$ossh_mark" >&5
	exit 0
}

# start_in DIRECTORY: the command begins there.
start_in() {
	CDPATH='' cd -- "$1" && return
	[ ! -d "$1" ] || refuse EACCES
	[ ! -e "$1" ] || refuse ENOTDIR
	# its first existing parent shows why it does not exist
	ossh_up=$1
	while :; do
		case $ossh_up in
		/ | '') refuse ENOENT ;;
		*/*) ossh_up=${ossh_up%/*} ;;
		*) ossh_up=. ;;
		esac
		if [ -d "${ossh_up:-/}" ]; then
			[ -x "${ossh_up:-/}" ] || refuse EACCES
			refuse ENOENT
		fi
		[ ! -e "$ossh_up" ] || refuse ENOTDIR
	done
}

# run INPUT WORDS...: INPUT is `frames`, or `none`.
run() {
	ossh_input=$1
	shift
	printf '%s started\n' "$ossh_mark" || exit 0
	SHLVL=1
	export SHLVL
	perform "$@"
	done_ "$ossh_status"
}

# perform WORDS...: runs it, with its output to where `become` sends it. In a subshell, as dash would tell of a
# killed command on the stderr that it gave to the command; feed and watch in braces, as dash would keep copies of
# what is closed.
perform() {
	if [ "$ossh_input" = frames ]; then
		# a signal before it has its own trap must end it, and not be caught by ours
		trap - USR2
		{ watch; } </dev/null 4<&- 5>&- &
		ossh_watch=$!
		trap : USR2
		{ { feed; } <&4 5>&- & } | (become "$@")
		ossh_status=$?
		# it holds our stdout
		kill -s USR2 "$ossh_watch"
		wait "$ossh_watch"
	else
		{ feed; } <&4 >/dev/null 5>&- &
		(become "$@" </dev/null)
		ossh_status=$?
	fi
}

become() {
	[ -n "$ossh_key" ] || exec "$@" 2>&5 4<&- 5>&-
	trap - PIPE
	exec "$@" >>"$ossh_dir/$ossh_key,out" 2>>"$ossh_dir/$ossh_key,err" 4<&- 5>&-
}

# spill TEXT: puts a command that is too long for one argument into a file that removes itself.
spill() {
	ossh_file=$(umask 077 && mktemp) || refuse ENOSPC
	printf 'rm -f %s\n%s\n' "$ossh_file" "$1" >"$ossh_file" || refuse ENOSPC
}

# once KEY HASH INPUT WORDS...: runs it, or gives what the first run gave; its output is kept in files, whose
# names have a comma, as no key has.
# The claim appears complete under its name (a hard link), so it is taken by one only, over NFS too.
once() {
	ossh_key=$1 ossh_hash=$2 ossh_input=$3
	shift 3
	ossh_dir=${XDG_STATE_HOME:-$HOME/.local/state}/opensshtransport/once
	(umask 077 && mkdir -p "$ossh_dir") || refuse EACCES
	find "$ossh_dir" -type f -mtime +30 -exec rm -f {} + </dev/null &
	ossh_draft=$ossh_dir/.$$.$(uname -n)
	(umask 077 && printf '%s\n%s\n%s\n%s\n%s\n' "$ossh_hash" "$(uname -n)" "$(boot)" $$ "$(born $$)" >"$ossh_draft") || refuse ENOSPC
	# a broken connection must not end the holder of the claim
	trap '' PIPE
	if ln "$ossh_draft" "$ossh_dir/$ossh_key"; then
		rm -f "$ossh_draft"
		ossh_stays=yes
		# of a run whose record was removed while it lasted
		rm -f "$ossh_dir/$ossh_key,status"
		printf '%s started\n' "$ossh_mark"
		SHLVL=1
		export SHLVL
		ossh_umask=$(umask)
		umask 077
		{ : >"$ossh_dir/$ossh_key,out" && : >"$ossh_dir/$ossh_key,err"; } || refuse ENOSPC
		umask "$ossh_umask"
		perform "$@"
		(umask 077 && echo "$ossh_status" >"$ossh_draft") && mv -f "$ossh_draft" "$ossh_dir/$ossh_key,status"
	else
		rm -f "$ossh_draft" "$ossh_file"
		{ read -r ossh_claimed && read -r ossh_node && read -r ossh_booted && read -r ossh_pid && read -r ossh_start; } <"$ossh_dir/$ossh_key" || refuse EIO
		[ "$ossh_claimed" = "$ossh_hash" ] || refuse other-command
		{ feed; } <&4 >/dev/null 5>&- &
		while [ ! -f "$ossh_dir/$ossh_key,status" ]; do
			if [ "$ossh_node" = "$(uname -n)" ] && { [ "$ossh_booted" != "$(boot)" ] || [ "$ossh_start" != "$(born "$ossh_pid")" ]; }; then
				# it may have ended between the two checks
				[ -f "$ossh_dir/$ossh_key,status" ] || refuse cut-down
			fi
			sleep 0.1 || sleep 1
		done
		printf '%s started\n' "$ossh_mark"
		read -r ossh_status <"$ossh_dir/$ossh_key,status"
	fi
	cat "$ossh_dir/$ossh_key,out"
	cat "$ossh_dir/$ossh_key,err" >&5
	done_ "$ossh_status"
}

boot() { cat /proc/sys/kernel/random/boot_id || uptime -s || echo unknown; }

# When a process was started; nothing if it has ended.
born() {
	if [ -r /proc/self/stat ]; then
		{ read -r stat <"/proc/$1/stat"; } || return 0
		# the 22nd field (proc(5)), counted after the name, which may have blanks
		# shellcheck disable=SC2086 # words are wanted
		set -- ${stat##*) }
		shift 19
		echo "$1"
	else
		ps -o lstart= -p "$1"
	fi
}

# secret: takes a mark that is in no command line, as others see those by ps.
secret() {
	# Linux provides one without another program
	IFS= read -r ossh_next </proc/sys/kernel/random/uuid || ossh_next=$(exec od -An -N16 -tx1 /dev/urandom)
	IFS='- '
	# shellcheck disable=SC2086 # words are wanted
	set -- $ossh_next
	IFS=''
	ossh_next=$*
	unset IFS
}

# idle: whether stdin has nothing for us, and has not ended: then no start-up file hangs on it, or has hung on it until
# the sender gave up. Where that cannot be told, no.
# shellcheck disable=SC3045 # who has no `read -t` fails at it
idle() {
	# of bash and busybox this asks whether reading would wait; at an end it would not
	if IFS= read -r -t 0 ossh_line </dev/null; then
		! IFS= read -r -t 0 ossh_line
		return
	fi
	# a pipe that is opened once more can be read without waiting, and the others who have it do not notice
	case $(LC_ALL=C exec dd bs=1 count=1 iflag=nonblock </proc/self/fd/0 2>&1 >/dev/null) in
	*'Resource temporarily unavailable'*) ;;
	*) return 1 ;;
	esac
}

# gate: begins nothing before the sender's word has arrived; a start-up file may have swallowed it.
gate() {
	while IFS= read -r ossh_line; do
		[ "$ossh_line" = G ] && return
	done
	refuse swallowed
}

ossh_stays='' ossh_file='' ossh_key='' ossh_watch=''
secret
# if nobody listens any more, nothing begins
printf '\n%s ready %s\n' "$ossh_mark" "$ossh_next" || exit 0
printf '\n%s ready %s\n' "$ossh_mark" "$ossh_next" >&5
ossh_mark=${ossh_next:-$ossh_mark}
# A request: L and a number of lines, or B and a number of bytes, of sh.
case $ossh_begins in
'')
	ossh_size=''
	while [ -z "$ossh_size" ]; do
		IFS= read -r ossh_size <&4 || exit 0
	done
	case $ossh_size in
	L*)
		ossh_n=${ossh_size#L}
		while [ "$ossh_n" -gt 0 ]; do
			IFS= read -r ossh_line <&4 || exit 0
			ossh_request=$ossh_request$ossh_line$ossh_nl
			ossh_n=$((ossh_n - 1))
		done
		;;
	B*) ossh_request=$(dd bs="${ossh_size#B}" count=1 iflag=fullblock <&4) ;;
	*) exit 0 ;;
	esac
	;;
idle) idle <&4 || gate <&4 ;;
told) gate <&4 ;;
# the sender cannot be reached
anyhow) ossh_stays=yes ;;
esac
eval "$ossh_request"
