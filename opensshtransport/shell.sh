# The remote half of `RemoteShell`: serves requests one after another, each in a subshell. Runs in the bootstrap, of
# which 4 is stdin. ossh_token, read first, is known to nobody else there: it parts the replies.
# A request is a line `LINES N PAYLOAD` or `BYTES N PAYLOAD`, so much of sh, and so many bytes of its stdin.

LC_ALL=C
export LC_ALL
unset LANGUAGE POSIXLY_CORRECT QUOTING_STYLE CDPATH TMPDIR
umask_=$(umask)

# fail ERRNO: ends the request with this error.
fail() {
	printf 'ossh: %s\n' "$1" >&2
	exit 1
}

# What a request prints goes out as it comes, then its errors and its status.
answer() {
	errors=$( (eval "$1") 2>&1 >&3)
	printf '%s errors\n%s%s end %s\n' "$ossh_token" "$errors" "$ossh_token" $?
}

serve() {
	nl='
'
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
		if [ "$payload" -gt 0 ]; then
			dd bs="$payload" count=1 iflag=fullblock | answer "$request" 3>&1
		else
			answer "$request" 3>&1 </dev/null
		fi
	done
	exit 0
}
