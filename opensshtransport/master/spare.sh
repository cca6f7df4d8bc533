#!/bin/sh
# Sessions that `ossh-run` opens ahead for its next command, in sh alone. `ossh-run` reads this file to take one
# (take_spare, by_spare) and to have one opened (open_behind). Started as a program, it opens one and keeps it.
#
# A spare is a directory with three FIFOs, `in`, `out` and `err`: stdin, stdout and stderr of an ssh whose remote side
# waits for one request (wrapper.py). The holder, a sleep(1), has them open. When it ends, ssh finds the end of its
# input, and the session ends: so a spare ends by itself. To take one is to open the FIFOs and then to end the holder
# by KILL, which ends a stopped process too; nobody is waited for.
#
# The directory is draft.MARK until the remote side is ready, then MARK. A process owns it by renaming it to taken.MARK:
# `ossh-run` to run a command there, or a process that gives it back by an empty line as the request. The keeper, the
# shell that started ssh, removes it after ssh has ended. shell_spares.py knows the same rules.
#
# The traps: an end of a FIFO that is left open anywhere is an end of file that never comes; opening one end waits
# for the other, unless both are opened first; and `<>` makes a file if the FIFO is gone.

# shellcheck disable=SC2154 # the alias's file sets what begins with ossh_, `ossh-run` the rest

LF='
'

# None is opened for so long after the server refused one: it is busy if it gave three before, else it gives few.
ossh_busy_for=6000 ossh_few_for=60000

# Sets `now` to hundredths of a second of some clock.
find_now() {
	{ read -r now _ </proc/uptime; } 2>/dev/null || now=$(date +%s).00
	now=${now%.*}${now#*.}
}

# Sets `around` to what of our surroundings a session depends on: what ssh passes on of our environment (ssh_config(5),
# SendEnv), and the group of processes that systemd and the like end as a whole, its ssh among them.
find_around() {
	around=''
	while IFS= read -r line; do around=$around$line$LF; done </proc/self/cgroup
	[ -n "$ossh_sent" ] || return 0
	exported=$(export -p)
	set -f
	IFS=$LF
	for line in $exported; do
		unset IFS
		one=${line%%=*}
		for pattern in $ossh_sent; do
			# shellcheck disable=SC2254 # it is a pattern
			case ${one##* } in $pattern) around=$around$line$LF ;; esac
		done
	done
	unset IFS
	set +f
} 2>/dev/null

# Whether $spare was opened with these surroundings.
same_around() {
	was=''
	while IFS= read -r line; do was=$was$line$LF; done <"$spare/around"
	[ "$was" = "$around" ]
} 2>/dev/null

# still PID DESCRIPTOR FILE PARENT: whether a process is the one that is meant, since its number may be another's by
# now: by what it has open, or where no /proc tells that, by its parent.
still() {
	# shellcheck disable=SC3013 # -ef is in every sh that is in use
	[ "/proc/$1/fd/$2" -ef "$3" ] || { [ ! -d /proc/self ] && [ "$(ps -o ppid= -p "$1")" -eq "$4" ]; }
} 2>/dev/null

# Sets `taken`, and opens it: 3 is the remote side's stdout, 4 its stderr, 8 its stdin, 6 and 7 ssh's log.
take_spare() {
	# before three are known to be given, they are only tried
	# shellcheck disable=SC3067 # -O is in every sh that is in use
	[ -O "$ossh_spares" ] && [ ! -L "$ossh_spares" ] && [ -e "$ossh_spares/wide" ] || return
	find_around
	# our caller's: nothing may be written there by mistake
	exec 3<&- 4<&- 8<&-
	for spare in "$ossh_spares/$ossh_mark".*; do
		same_around || continue
		# that has descriptors of its own
		# shellcheck disable=SC3045 # -t N is POSIX's
		[ ! -t 5 ] || read_by_pipe || break
		mark=${spare##*/} taken=$ossh_spares/taken.${spare##*/}
		{ read -r holder ssh keeper <"$spare/held" && still "$holder" 3 "$spare/in" "$keeper" &&
			still "$ssh" 0 "$spare/in" "$keeper" && mv "$spare" "$taken"; } 2>/dev/null || continue
		open_taken && kill -s KILL "$holder" 2>/dev/null && return
		leave_spare
	done
	taken=''
	return 1
}

# shellcheck disable=SC2094 # both ends of a pipe
open_taken() {
	command exec 9<>"$taken/in" 8>"$taken/in" 9<>"$taken/out" 3<"$taken/out" 9<>"$taken/err" 4<"$taken/err" 9<&- \
		6<>"$taken/log" 7<"$taken/log" && [ -p "$taken/in" ] && [ -p "$taken/out" ] && [ -p "$taken/err" ]
} 2>/dev/null

# Tells the remote side to end: nothing was asked of it.
leave_spare() {
	trap '' PIPE
	{ echo >&8; } 2>/dev/null
	trap - PIPE
	exec 3<&- 4<&- 6<&- 7<&- 8<&-
}

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

# Runs $command in the spare that was taken, and sets `status` and `lost`. Fails with 2 where it has surely not begun,
# and nothing of our stdin is read; with 1 where nobody knows its status. What was handed over has begun, unless the
# remote side has ended by itself without the line that comes before the command.
# shellcheck disable=SC2034 # `ossh-run` reads log and lost
by_spare() {
	feeder='' out='' err='' begun=''
	for signal in HUP INT TERM; do
		# shellcheck disable=SC2064 # expands now
		trap "stop $signal" "$signal"
	done
	count_lines
	trap '' PIPE
	{ printf '%s\n%s\n' "$lines" "$command" >&8; } 2>/dev/null
	handed=$?
	trap - PIPE
	if [ "$handed" = 0 ]; then
		log=$taken/log
		while IFS= read -r line <&3; do
			case $line in "$mark "[0-9]*) begun=yes && break ;; esac
		done
	fi
	if [ -z "$begun" ]; then
		exec 8>&-
		# its end is that of ssh, whose log is complete then
		while [ "$handed" = 0 ] && read -r _ <&4; do :; done
		[ "$handed" = 0 ] && ! read_status <&7
		done=$((1 + $?))
		trap - HUP INT TERM
		exec 3<&- 4<&-
		[ "$done" = 1 ] || { log='' taken='' && exec 6<&- 7<&-; }
		return "$done"
	fi
	# nothing to feed
	# shellcheck disable=SC3013 # -ef is in every sh that is in use
	if [ -n "$reader" ] || [ ! /dev/fd/5 -ef /dev/null ]; then
		# 5 stays open there: by that it is known
		cat <&5 >&8 2>/dev/null 3<&- 4<&- 6<&- 7<&- 8<&- &
		feeder=$!
	fi
	exec 8>&-
	cat <&3 2>/dev/null 3<&- 4<&- 5<&- 6<&- 7<&- &
	out=$!
	copy_stderr &
	err=$!
	exec 3<&- 4<&-
	wait_for_copies 2>/dev/null
	exec 5<&-
	end_reader
	trap - HUP INT TERM
	# shellcheck disable=SC2086 # numbers
	set -- $copied
	# else something is lost; 141 is by a pipe that nobody reads, and ksh counts signals from 256
	case $1 in 0 | 141 | 269) ;; *) lost=yes ;; esac
	# that nobody takes our stderr or the rest of our stdin is no failure, nor that we have ended the copy of stdin
	case $2 in 0 | 1 | 64 | 141 | 269) ;; *) return 1 ;; esac
	case $3 in 0 | 1 | 141 | 269) ;; *) return 1 ;; esac
	read_status <&7
}

# Sets `copied` to how that went: stdout, stderr, stdin.
wait_for_copies() {
	wait "$out"
	copied=$?
	wait "$err"
	copied="$copied $?"
	copied_stdin=0
	if [ -n "$feeder" ] && ! end_feeder; then
		wait "$feeder"
		copied_stdin=$?
	fi
	# that it was ended then says the other copy
	case $copied in *" 64") copied_stdin=0 ;; esac
	copied="$copied $copied_stdin"
}

# Its end is that of ssh: nobody is to read our stdin then, even where we were killed.
copy_stderr() {
	# not around the call: dash would keep copies
	exec 3<&- 6<&- 7<&-
	cat <&4 >&2 4<&- 5<&-
	copied=$?
	exec 4<&-
	[ "$copied" != 0 ] || ! end_feeder || copied=64
	exit "$copied"
}

# Whether it was still there. By KILL: a shell loses another signal between fork and exec.
end_feeder() {
	[ -n "$feeder" ] && still "$feeder" 5 /dev/fd/5 $$ && kill -s KILL "$feeder"
} 2>/dev/null

# Ends what copies for a command that we are told to end.
end_copies() {
	end_feeder
	end_reader
	# shellcheck disable=SC2086 # numbers
	kill -s KILL $out $err
} 2>/dev/null

# Notes this call, and opens what is missing in the background: nothing before the second call in the time for which a
# spare waits. A call that found no spare wants one more. No descriptor of the caller's may be held open.
open_behind() {
	umask 077
	find_now
	last='' wanted='' peak=''
	{ read -r last wanted peak <"$ossh_spares/called"; } 2>/dev/null
	for one in "$last" "$wanted" "$peak"; do
		case $one in '' | *[!0-9]*) last=0 ;; esac
	done
	# how many run side by side; what there was before counts less with each call
	count "$run"/run.*.* "$ossh_spares"/taken.*
	# a clock that was set back counts as long ago
	if [ "$last" -gt 0 ] && [ "$last" -le "$now" ] && [ $((now - last)) -le $((ossh_kept_for * 100)) ]; then
		[ -n "$taken" ] || wanted=$((wanted + 1))
	else
		wanted=0 peak=0
	fi
	peak=$((peak - 1))
	[ "$peak" -ge "$used" ] || peak=$used
	[ "$wanted" -le "$ossh_most" ] || wanted=$ossh_most
	{ echo "$now $wanted $peak" >"$ossh_spares/called"; } 2>/dev/null
	# all that ran side by side may do so again, and the last session is for somebody else
	room=$((ossh_sessions - peak - 1))
	[ "$wanted" -le "$room" ] || wanted=$room
	[ "$wanted" -gt 0 ] || return 0
	find_around
	{
		# what ends our caller's processes is not for it: others may use what it keeps
		trap '' HUP INT QUIT TSTP
		set -- sh "$ossh_module" keep "$file" "$wanted" 3
		! command -v setsid || set -- setsid "$@"
		# not as an argument, which everybody can see
		export around
		exec "$@"
	} </dev/null >/dev/null 2>&1 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- 9<&- &
}

# -- the program --

# Goes on with nothing of our caller's open but the three streams. What is above 9 not every sh can close.
be_bare() {
	for one in /dev/fd/*; do
		case ${one##*/} in 0 | 1 | 2) continue ;; esac
		# the shell's own are this file, and the list of them, which has gone
		# shellcheck disable=SC3013 # -ef is in every sh that is in use
		[ ! -e "$one" ] || [ "$one" -ef "$0" ] || {
			[ -z "${ossh_closed-}" ] || exit
			# shellcheck disable=SC2016 # that shell expands it
			ossh_closed=yes exec bash -c 'for one in /dev/fd/*; do
				[ "${one##*/}" -le 2 ] || eval "exec ${one##*/}>&-"
			done; exec sh "$@"' bash "$0" keep "$@"
		}
	done
	unset ossh_closed
}

# Sets `used` to how many of these are there.
count() {
	used=0
	for one; do [ ! -e "$one" ] || used=$((used + 1)); done
}

# Whether the budget of sessions has room for so many.
has_room() {
	until=''
	{ read -r until <"$ossh_spares/narrow"; }
	case $until in '' | *[!0-9]*) until=0 ;; esac
	# a clock that was set back counts as long ago
	[ "$now" -ge "$until" ] || [ $((until - now)) -gt $ossh_few_for ] || return 1
	base=${ossh_spares%.spares}
	# spares, those that a command runs in among them, and who runs without one
	count "$ossh_spares"/*.* "${base%/*}"/run.*.*
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
	[ $((used + $1)) -le "$ossh_sessions" ]
}

# Removes what killed keepers and commands have left, which takes up room, and ends. Of those that have run for longer,
# nobody needs it any more.
sweep() {
	find "$ossh_spares/." ! -name . -prune -name '*.*' -mmin +2 -exec rm -rf {} +
	find "${ossh_spares%/*}/." ! -name . -prune -name 'run.*.*' -mmin +5 -exec rm -f {} +
	exit
}

# keep ALIAS WANTED MORE: opens a spare unless so many are there, and keeps it until nobody has come for a while.
# Has as many more opened as are missing, and MORE allows.
keep() {
	be_bare "$@"
	alias=$1 wanted=$2 more=$3
	# shellcheck disable=SC1090 # written by this package
	. "$alias" && [ -d "$ossh_spares" ] && cd / || exit
	umask 077
	find_now
	most=$wanted
	# whether the server gives three at all shows once, by three
	[ -e "$ossh_spares/wide" ] || most=3
	# with fewer there is none to spare, and the last session is for somebody who has a command to run
	[ "$ossh_sessions" -ge 3 ] || exit
	has_room 2 || sweep
	{ read -r unique </proc/sys/kernel/random/uuid; } || unique=$(od -A n -N 4 -t x4 /dev/urandom | tr -d ' ')
	mark=$ossh_mark.$$.${unique%%-*}
	draft=$ossh_spares/draft.$mark spare=$ossh_spares/$mark taken=$ossh_spares/taken.$mark
	make_draft || clear_up
	# each makes his first, and counts then: so that those who come at once do not open more; the last of them leave
	count "$ossh_spares/$ossh_mark".* "$ossh_spares/draft.$ossh_mark".*
	after=0
	for one in "$ossh_spares/draft.$ossh_mark".*; do
		after=$((after + 1))
		[ "$one" != "$draft" ] || after=0
	done
	[ "$after" -ge $((used - most)) ] || clear_up
	if [ "$used" -lt "$most" ] && [ "$more" -gt 1 ]; then
		sh "$0" keep "$alias" "$wanted" $((more - 1)) &
	fi
	unset around
	begin
	if is_ready; then
		exec 4<&- 5<&-
		find_now
		mv "$draft" "$spare" && note_width
		# who has noted that meanwhile has not found ours
		has_room 0 || give_back 0
	elif refused; then
		find_now
		until=$((now + ossh_few_for))
		[ ! -e "$ossh_spares/wide" ] || until=$((now + ossh_busy_for))
		echo $until >"$ossh_spares/narrow"
		give_back 0
	fi
	wait "$ssh"
	for one in "$draft" "$spare" "$taken"; do
		! still "$holder" 3 "$one/in" $$ || kill -s KILL "$holder"
	done
	clear_up
}

# Where there is no room for a draft, there is none later either.
make_draft() {
	mkdir "$draft" && printf %s "$around" >"$draft/around" && echo ossh-run >"$draft/log" &&
		mkfifo "$draft/in" "$draft/out" "$draft/err"
}

# Starts ssh and its holder; leaves the remote side's stdout and stderr at 4 and 5.
begin() {
	set -- "$ossh_ssh"
	[ -z "$ossh_config" ] || set -- "$@" -F "$ossh_config"
	# shellcheck disable=SC2086 # words without blanks
	set -- "$@" -S "$ossh_path" $ossh_options -T -E "$draft/log" -oLogLevel=DEBUG2 -- "$ossh_host" \
		"$ossh_waiting$mark$ossh_waits"
	# shellcheck disable=SC2094 # both ends of pipes
	command exec 3<>"$draft/in" 6<"$draft/in" 9<>"$draft/out" 4<"$draft/out" 7>"$draft/out" \
		9<>"$draft/err" 5<"$draft/err" 8>"$draft/err" 9<&- || clear_up
	"$@" <&6 >&7 2>&8 3<&- 4<&- 5<&- 6<&- 7<&- 8<&- &
	ssh=$!
	sleep "$ossh_kept_for" 6<&- 7<&- 8<&- &
	holder=$!
	exec 3<&- 6<&- 7<&- 8<&-
	echo "$holder $ssh $$" >"$draft/held"
}

# Whether the remote side has said so on both streams; what start-up files print before is dropped.
is_ready() {
	drop_noise <&5 &
	drop_noise <&4 && wait $!
}

drop_noise() {
	while IFS= read -r line; do
		[ "$line" != "$mark ready" ] || return 0
	done
	return 1
}

# Whether the server has refused this session.
refused() {
	while IFS= read -r line; do
		case $line in *'session request failed'*) return ;; esac
	done <"$draft/log"
	return 1
}

# Notes that the server gives three sessions, and gives back what was opened to see that.
note_width() {
	[ ! -e "$ossh_spares/wide" ] || return 0
	count "$ossh_spares/$ossh_mark".*
	[ "$used" -lt 3 ] || { true >"$ossh_spares/wide" && give_back "$wanted"; }
}

# give_back KEPT: gives back all that nobody has taken, but for so many.
give_back() {
	kept=$1
	for one in "$ossh_spares/$ossh_mark".* "$ossh_spares/draft.$ossh_mark".*; do
		[ -p "$one/in" ] || continue
		kept=$((kept - 1))
		[ "$kept" -lt 0 ] || continue
		name=${one##*/}
		back=$ossh_spares/taken.${name#draft.}
		mv "$one" "$back" && echo 1<>"$back/in"
	done
}

# Removes what is ours, also where somebody who came too late has made a file, and ends.
clear_up() {
	rm -rf "$draft" "$spare" "$taken"
	if [ -d "$draft" ] || [ -d "$spare" ] || [ -d "$taken" ]; then
		sleep 1
		rm -rf "$draft" "$spare" "$taken"
	fi
	exit
}

# elsewhere this file is read
[ "${0##*/}" != spare.sh ] || "$@"
