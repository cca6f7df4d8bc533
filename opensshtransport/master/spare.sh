#!/bin/sh
# Sessions that are opened ahead for the next `ossh-run`, in sh alone. `ossh-run` reads this file to take one
# (take_spare, by_spare), and starts it as a program to open what is missing (open).
#
# A spare is a directory with five FIFOs: `in`, `out` and `err` are those of an ssh whose remote side waits for one
# request; `keep` takes words for the keeper, a shell that holds the other three open meanwhile; `held` ends when the
# keeper has let go. Its name is the mark by which its processes are found on the remote side. It is complete before it
# gets that name, and belongs to who makes `taken` in it. shell_spares.py knows the same rules.
#
# The traps: an end of a FIFO that is left open anywhere is an end of file that never comes; and opening one end
# waits for the other, unless both are opened first.

# shellcheck disable=SC2154 # the alias's file sets what begins with ossh_, `ossh-run` the rest

LF='
'

# Seconds for which a spare waits; the remote side waits a little longer (wrapper.py).
ossh_kept_for=50

# Another call within so many seconds shows that spares are wanted.
ossh_soon=60

# claim DIRECTORY: whether it is ours from now on.
claim() {
	set -C
	{ true >"$1/taken"; } 2>/dev/null
	claimed=$?
	set +C
	return "$claimed"
}

# Sets `now` to some clock in seconds.
find_now() {
	{ read -r now _ </proc/uptime; } 2>/dev/null || now=$(date +%s)
	now=${now%%.*}
}

# Sets `sent` to what ssh passes on of our environment (ssh_config(5), SendEnv).
find_sent() {
	sent=''
	[ -n "$ossh_sent" ] || return 0
	exported=$(export -p)
	set -f
	IFS=$LF
	for line in $exported; do
		unset IFS
		one=${line%%=*}
		for pattern in $ossh_sent; do
			# shellcheck disable=SC2254 # it is a pattern
			case ${one##* } in $pattern) sent=$sent$line$LF ;; esac
		done
	done
	unset IFS
	set +f
}

# Whether $spare was opened with the environment that ssh would pass on now.
same_sent() {
	[ -n "$ossh_sent" ] || return 0
	was=''
	while IFS= read -r line; do was=$was$line$LF; done <"$spare/sent"
	[ "$was" = "$sent" ]
} 2>/dev/null

# Notes this call, and sets `wanted` to how many spares there should have been: none before the second call.
note_call() {
	find_now
	last='' wanted=0
	{ read -r last wanted <"$ossh_spares/called"; } 2>/dev/null
	case $last$wanted in
	*[!0-9]* | '') wanted=0 ;;
	*)
		wanted=$((wanted + 1 - ${hit:-0}))
		# a clock that was set back counts as long ago
		[ "$last" -le "$now" ] && [ $((now - last)) -le $ossh_soon ] || wanted=0
		;;
	esac
	[ "$wanted" -le "$ossh_most" ] || wanted=$ossh_most
	echo "$now $wanted" >"$ossh_spares/called"
} 2>/dev/null

# Sets `spare`, and opens it: 3 is the remote side's stdout, 4 its stderr, 8 its stdin, 6 and 7 ssh's log.
take_spare() {
	hit=0
	# shellcheck disable=SC3067 # -O is in every sh that is in use
	[ -O "$ossh_spares" ] && [ ! -L "$ossh_spares" ] || return
	find_sent
	for spare in "$ossh_spares/$ossh_mark".*; do
		{ [ -p "$spare/in" ] && ours && same_sent && claim "$spare"; } || continue
		# that has descriptors of its own
		# shellcheck disable=SC3045 # -t N is POSIX's
		[ ! -t 5 ] || read_by_pipe || return
		open_spare && hit=1 && return
		leave_spare
	done
	return 1
}

# Whether nobody else has put there what $spare is.
ours() {
	for one in '' /in /out /err /keep /held /log; do
		# shellcheck disable=SC3067 # -O is in every sh that is in use
		[ -O "$spare$one" ] && [ ! -L "$spare$one" ] || return 1
	done
}

# shellcheck disable=SC2094 # both ends of a pipe
open_spare() {
	{
		command exec 9<>"$spare/in" 8>"$spare/in" 9>&- &&
			command exec 9<>"$spare/out" 3<"$spare/out" 9>&- &&
			command exec 9<>"$spare/err" 4<"$spare/err" 9>&- &&
			command exec 9<>"$spare/held" <"$spare/held" 9>&- &&
			command exec 6<>"$spare/log" 7<"$spare/log"
	} 2>/dev/null || return 1
	# what has gone meanwhile would have been made anew, as a file
	for one in in out err held keep; do
		[ -p "$spare/$one" ] || return 1
	done
	echo taken 1<>"$spare/keep"
	# until the keeper has let go, or has died before
	read -r _
	exec <&5
}

leave_spare() { exec <&5 3<&- 4<&- 6<&- 7<&- 8<&-; }

# Sets `lines` to the number of lines of $command.
count_lines() {
	lines=1 rest=$command
	while :; do
		case $rest in
		*"$LF"*) rest=${rest#*"$LF"} lines=$((lines + 1)) ;;
		*) return ;;
		esac
	done
}

# Runs $command in the spare that was taken, and sets `status`. Fails with 2 where it has surely not begun, and nothing
# of our stdin is read; with 1 where nobody knows its status.
# shellcheck disable=SC2034 # `ossh-run` reads log
by_spare() {
	# its log has no name any more
	mark=${spare##*/} log=$spare.log
	for signal in HUP INT TERM; do
		# shellcheck disable=SC2064 # expands now
		trap "stop $signal" "$signal"
	done
	count_lines
	trap '' PIPE
	{ printf '%s\n%s\n' "$lines" "$command" >&8; } 2>/dev/null
	handed=$?
	trap - PIPE
	told='' status=''
	if [ "$handed" = 0 ]; then
		# nothing to feed
		# shellcheck disable=SC3013 # -ef is in every sh that is in use
		[ -n "$reader" ] || [ ! /dev/fd/5 -ef /dev/null ] || exec 8>&-
		cat <&4 >&2 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- &
		err=$!
		note_call
		# most of what ssh notes is there by now
		read_status <&7
		while IFS= read -r line <&3; do
			case $line in
			"$mark unused") told=unused && break ;;
			"$mark "*) told=begun && break ;;
			esac
		done
	else
		told=unused
	fi
	if [ "$told" = unused ]; then
		trap - HUP INT TERM
		leave_spare
		log=''
		return 2
	fi
	cat <&3 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- &
	out=$!
	feeder=''
	if { true >&8; } 2>/dev/null; then
		cat <&5 >&8 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- &
		feeder=$!
	fi
	exec 3<&- 4<&- 5<&- 8<&-
	wait "$out"
	wait "$err"
	[ -z "$feeder" ] || { kill "$feeder" && wait "$feeder"; } 2>/dev/null
	end_reader
	trap - HUP INT TERM
	read_status <&7
}

# Opens, behind our back, what is missing. What the caller waits for to end must not be held by it.
open_behind() {
	[ "$wanted" -gt 0 ] || return 0
	{
		trap '' HUP
		set -- sh "$ossh_module" open "$file" "$wanted" "$sent"
		# else a Ctrl-C or a Ctrl-Z at the terminal, or the end of a timeout(1), is for it as well
		if command -v setsid; then
			exec setsid nice "$@"
		fi
		exec nice "$@"
	} </dev/null >/dev/null 2>&1 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&- &
}

# -- the program --

# Whether we hold nothing of our caller's but the three streams, as we could not close what is above 9.
bare() {
	for one in /dev/fd/*; do
		case ${one##*/} in 0 | 1 | 2) continue ;; esac
		# the shell's own are this file, and the list of them, which has gone
		# shellcheck disable=SC3013 # -ef is in every sh that is in use
		[ ! -e "$one" ] || [ "$one" -ef "$0" ] || return 1
	done
}

# Sets `room` to how many sessions are left for spares; fails where there is to be none.
find_room() {
	base=${ossh_spares%.spares} limit=$ossh_sessions learned=''
	[ ! -e "$base.limit" ] || learned=$(find "$base.limit" -mmin -5 -exec cat {} +)
	case $learned in '' | *[!0-9]*) ;; *) [ "$learned" -ge "$limit" ] || limit=$learned ;; esac
	# with fewer there is none to spare
	[ "$limit" -ge 3 ] || return 1
	if [ -e "$ossh_spares/narrow" ]; then
		# where three were given before, it is busy
		age=10
		[ ! -e "$ossh_spares/wide" ] || age=1
		[ -z "$(find "$ossh_spares/narrow" -mmin -$age)" ] || return 1
	fi
	used=0
	if [ -f "$base.slots" ] && [ -r /proc/locks ]; then
		inode=$(ls -i -- "$base.slots")
		inode=${inode#"${inode%%[! ]*}"}
		inode=${inode%% *}
		while read -r line; do
			case $line in
			# somebody waits (slots.py)
			*POSIX*":$inode 1000 "*) return 1 ;;
			# neighbours of one process are one line, with the first and the last
			*POSIX*":$inode "*)
				line=${line##*":$inode "}
				used=$((used + 1 + ${line#* } - ${line% *}))
				;;
			esac
		done </proc/locks
	fi
	others=''
	# spares, those in use among them, and who runs without one
	for one in "$ossh_spares"/*.* "${base%/*}"/run.*.*; do
		[ ! -e "$one" ] || used=$((used + 1))
		[ ! -e "$one/taken" ] || others=yes
	done
	room=$((limit - used))
}

# open ALIAS WANTED SENT
open() {
	# shellcheck disable=SC1090 # written by this package
	. "$1" && [ -d "$ossh_spares" ] || exit
	wanted=$2
	umask 077
	bare && cd / || exit
	# one at a time: else each of many would open for all
	if ! mkdir "$ossh_spares/lock"; then
		find "$ossh_spares/lock" -prune -mmin +1 -exec rmdir {} +
		exit
	fi
	names=''
	if find_room; then
		# of keepers that were killed
		[ -z "$others" ] || find "$ossh_spares/." ! -name . -prune -name '*.*' -mmin +3 -exec rm -rf {} +
		for one in "$ossh_spares/$ossh_mark".* "$ossh_spares/draft.$ossh_mark".*; do
			[ -p "$one/in" ] && [ ! -e "$one/taken" ] && wanted=$((wanted - 1))
		done
		# the last session is for somebody who has a command to run
		[ "$wanted" -lt "$room" ] || wanted=$((room - 1))
		# whether the server gives three at all shows once, by three
		if [ "$wanted" -gt 0 ] && [ ! -e "$ossh_spares/wide" ]; then
			wanted=3
			[ "$room" -ge 3 ] || wanted=0
		fi
		while [ "$wanted" -gt 0 ]; do
			unique=$$.$wanted
			{ read -r uuid </proc/sys/kernel/random/uuid; } || uuid=$(od -A n -N 4 -t x4 /dev/urandom | tr -d ' ')
			mark=$ossh_mark.$unique.${uuid%%-*}
			draft=$ossh_spares/draft.$mark
			if ! mkdir "$draft" || ! printf %s "$3" >"$draft/sent" || ! echo ossh-run >"$draft/log" ||
				! mkfifo "$draft/held" "$draft/keep" "$draft/err" "$draft/out" "$draft/in"; then
				rm -rf "$draft"
				break
			fi
			names="$names $mark"
			wanted=$((wanted - 1))
		done
	fi
	rmdir "$ossh_spares/lock"
	for mark in $names; do
		keep &
	done
}

# Keeps the spare of this mark until somebody takes it, or nobody has for a while.
keep() {
	draft=$ossh_spares/draft.$mark spare=$ossh_spares/$mark
	exec 3<>"$draft/in" 4<>"$draft/out" 5<>"$draft/err" 6<>"$draft/keep" 7<>"$draft/held"
	# who has claimed it before could not tell us
	[ ! -e "$draft/taken" ] || {
		rm -rf "$draft"
		exit
	}
	guard &
	guard=$!
	find_ready &
	finder=$!
	timer "$ossh_kept_for" &
	timer=$!
	state=opening
	while read -r word <&6; do
		case $word in
		ready)
			wait "$finder"
			mv "$draft" "$spare" || break
			state=ready finder=''
			note_width
			continue
			;;
		taken)
			exec 3<&- 4<&- 5<&- 7<&-
			kill "$timer"
			# the directory stays until ssh has ended: one more session that is in use
			true >"$spare/opened"
			exit
			;;
		ended)
			[ "$state" = ready ] || ! refused || give_back
			kill $finder "$timer"
			# the guard clears up
			exit
			;;
		expired)
			# who has taken it will say so
			if ! claim "$spare" && [ "$state" = ready ]; then
				timer 5 &
				timer=$!
				state=claimed
				continue
			fi
			;;
		esac
		break
	done
	rm -rf "$draft" "$spare"
	kill $finder "$timer" "$guard"
}

# Becomes ssh's parent: tells when ssh has ended, and removes what is left.
guard() {
	set -- "$ossh_ssh"
	[ -z "$ossh_config" ] || set -- "$@" -F "$ossh_config"
	# shellcheck disable=SC2086 # words without blanks
	set -- "$@" -S "$ossh_path" $ossh_options -T -E "$draft/log" -oLogLevel=DEBUG2 -- "$ossh_host" \
		"$ossh_waiting$mark$ossh_waits"
	exec 8<"$draft/in" 9>"$draft/out" 4>"$draft/err" 3<&- 5<&- 7<&-
	"$@" <&8 >&9 2>&4 4>&- 6>&- 8<&- 9>&- &
	ssh=$!
	exec 4>&- 8<&- 9>&-
	trap 'kill "$ssh"' TERM
	wait "$ssh"
	wait "$ssh"
	echo ended >&6
	exec 6>&-
	# who has taken it has opened it by then
	[ -e "$spare/opened" ] || [ ! -d "$spare" ] || claim "$spare" || sleep 1
	rm -rf "$draft" "$spare"
}

# Drops what start-up files print, up to the words of our own on both streams.
find_ready() {
	# not around the call: dash would keep copies
	exec 3<&- 7<&-
	for number in 4 5; do
		while IFS= read -r line <&$number; do
			[ "$line" != "$mark ready" ] || break
		done
	done
	exec 4>&- 5>&-
	echo ready >&6
}

# timer SECONDS
timer() {
	exec 3<&- 4<&- 5<&- 7<&-
	trap 'kill $!; exit' TERM
	sleep "$1" 6>&- &
	wait $!
	echo expired >&6
}

# Whether the server has refused this session.
refused() {
	while IFS= read -r line; do
		case $line in *'session request failed'*) return ;; esac
	done <"$draft/log"
	return 1
}

# Notes that the server gives three sessions.
note_width() {
	[ -e "$ossh_spares/wide" ] && return
	width=0
	for one in "$ossh_spares/$ossh_mark".*; do
		[ -d "$one" ] && width=$((width + 1))
	done
	[ "$width" -lt 3 ] || true >"$ossh_spares/wide"
}

# Gives back all, where the server has no session left.
give_back() {
	true >"$ossh_spares/narrow"
	# one that gets its name meanwhile is found by that
	for one in "$ossh_spares/draft.$ossh_mark".*; do tell_back; done
	for one in "$ossh_spares/$ossh_mark".*; do tell_back; done
}

tell_back() {
	[ -p "$one/keep" ] && claim "$one" && echo back 1<>"$one/keep"
}

# elsewhere this file is read
[ "${0##*/}" != spare.sh ] || open "$2" "$3" "$4"
