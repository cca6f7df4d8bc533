#!/bin/sh
# The remote half of `RemoteShell`: serves requests one after another, each in a subshell. Runs in the bootstrap, of
# which 4 is stdin; its mark, which nobody else on the host knows, separates the replies.
# A request is a line `LINES N PAYLOAD` or `BYTES N PAYLOAD`, that much of sh, and that many bytes of its stdin;
# other lines are for start-up files that read some.
# shellcheck disable=SC2154 # ossh_mark and ossh_script are set before

LC_ALL=C
export LC_ALL
unset LANGUAGE POSIXLY_CORRECT QUOTING_STYLE CDPATH TMPDIR
# shellcheck disable=SC2034 # for the file operations
umask_=$(umask)

# fail ERRNO: ends the request with this error.
fail() {
	printf 'ossh: %s\n' "$1" >&2
	exit 1
}

# A request's output is sent as it comes, then its errors and its status.
answer() {
	errors=$( (eval "$1") 2>&1 >&3)
	status=$?
	# if the shell that reads requests was killed, this one may not have got all of its stdin
	kill -s 0 $$ 2>/dev/null || exit
	printf '%s errors\n%s%s end %s\n' "$ossh_mark" "$errors" "$ossh_mark" "$status"
}

# exact N: copies this many bytes of stdin, and not one more, in pieces.
exact() {
	dd bs=65536 count=$(($1 / 65536)) iflag=fullblock
	[ $(($1 % 65536)) -eq 0 ] || dd bs=$(($1 % 65536)) count=1 iflag=fullblock
}

serve() {
	nl='
'
	# a start-up file may have changed the directory
	cd -P -- "$HOME" || cd /
	# shellcheck disable=SC2034 # for the file operations
	home_=$PWD
	printf '%s started\n' "$ossh_mark"
	while IFS=' ' read -r kind size payload; do
		request=''
		case $kind in
		LINES)
			while [ "$size" -gt 0 ]; do
				IFS= read -r line || exit 0
				request=$request$line$nl
				size=$((size - 1))
			done
			;;
		BYTES) request=$(dd bs="$size" count=1 iflag=fullblock) ;;
		*) continue ;;
		esac
		if [ "$payload" -gt 1048576 ]; then
			# what the request leaves unread must not become the next request
			exact "$payload" | {
				answer "$request" 3>&1
				exec cat >/dev/null
			}
		elif [ "$payload" -gt 0 ]; then
			# dd has read everything before it writes
			dd bs="$payload" count=1 iflag=fullblock | answer "$request" 3>&1
		else
			answer "$request" 3>&1 </dev/null
		fi
	done
	exit 0
}

# once_: one script for all of stdin.
once_() {
	printf '%s started\n' "$ossh_mark"
	answer "$ossh_script" 3>&1
	exit 0
}
