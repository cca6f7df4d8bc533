# Moving files. Drafts lie beside what they will become, so that they become it by one rename(2).

# place DESTINATION NAME: sets `final` to what a source of this name becomes, as `cp` has it.
place() {
	final=$1
	if [ -d "$1" ]; then
		case $1 in */) final=$1$2 ;; *) final=$1/$2 ;; esac
	fi
}

# dated TIME FILE: sets the time of the last change, SECONDS.NANOSECONDS; busybox knows seconds only.
dated() { touch -m -d "@$1" "$2" 2>/dev/null || touch -m -d "@${1%.*}" "$2"; }

# settle SIZE MODE TIME EXIST_OK FINAL: `draft` becomes FINAL. MODE is exact with a TIME, else less the umask where
# FINAL is new. Asked again after the answer was lost, it finds it done.
settle() {
	if [ ! -e "$draft" ] && [ -f "$5" ] && [ "$(stat -c %s "$5")" = "$1" ]; then
		return 0
	fi
	if [ "$(stat -c %s "$draft")" -lt "$1" ]; then truncate -c -s "$1" "$draft" || return; fi
	[ "$(stat -c %s "$draft")" = "$1" ] || fail EIO
	[ "$4" ] || ! there "$5" || { rm -f "$draft"; fail EEXIST; }
	[ ! -d "$5" ] || fail EISDIR
	if [ "$3" ]; then
		chmod "$2" "$draft" && dated "$3" "$draft"
	elif [ -f "$5" ]; then
		chmod "$(stat -c %a "$5")" "$draft"
	else
		chmod "$(limited "$2")" "$draft"
	fi && mv -f -T "$draft" "$5"
}

# aim EXIST_OK DESTINATION NAME: sets `target` to what is to be written, and looks whether it can be.
aim() {
	place "$2" "$3"
	case $final in */) if there "${final%/}"; then fail ENOTDIR; else fail ENOENT; fi ;; esac
	target "$final"
	[ "$1" ] || ! there "$target" || fail EEXIST
}

# put_file SIZE MODE TIME EXIST_OK DESTINATION NAME: stdin becomes a file, complete or not at all.
put_file() {
	aim "$4" "$5" "$6"
	if [ -e "$target" ] && [ ! -f "$target" ]; then
		cat >"$target"
		exit
	fi
	beside "$target"
	(keep "$1") || exit
	if [ "$3" ]; then
		chmod "$2" "$draft" && dated "$3" "$draft"
	elif [ -f "$target" ]; then
		chmod "$(stat -c %a "$target")" "$draft"
	elif [ $((0$2 & ~0$umask_)) != $((0666 & ~0$umask_)) ]; then
		chmod "$(limited "$2")" "$draft"
	fi && mv -f -T "$draft" "$target" && exit
	rm -f "$draft"
	exit 1
}

# put_tree PRESERVE EXIST_OK MANY DESTINATION NAME: a tar stream on stdin becomes a tree.
put_tree() {
	tree "$d" '' "$3" "$4" "$5" >/dev/null
	unpack "$1" "$draft" || { rm -rf "$draft"; exit 1; }
	commit "$how" "$2" "$final" "$draft" "$1" </dev/null
}

# prepare KEY RESUME EXIST_OK DESTINATION NAME: prints the file to be written, its draft, and the sums of what is in
# that already.
prepare() {
	aim "$3" "$4" "$5"
	[ ! -e "$target" ] || [ -f "$target" ] || fail EINVAL
	d=$1
	beside "$target"
	stale "$draft"
	if [ ! "$2" ] || [ ! -f "$draft" ]; then
		rm -f "$draft"
		(umask 077 && : >"$draft") || exit
	fi
	printf '%s\0%s\0' "$target" "$draft"
	sums "$draft"
}

# stale DRAFT: removes drafts, of whatever else was to be moved here, that nobody has touched for a week.
stale() {
	find "${1%/*}/" -maxdepth 1 -name '.ossh-*' -mtime +7 -user "$(id -u)" -exec rm -rf {} + 2>/dev/null
	:
}

# sums FILE: the sum of each 8 MiB.
sums() {
	left=$(stat -L -c %s "$1") || return
	block=0
	while [ "$left" -gt 0 ]; do
		dd if="$1" bs=8388608 skip=$block count=1 2>/dev/null | sha256sum
		block=$((block + 1)) left=$((left - 8388608))
	done
}

# receive DRAFT MIB: stdin goes into a draft, from there on.
receive() { said dd of="$1" bs=1048576 seek="$2" conv=notrunc; }

# send FILE MIB COUNT: so many MiB of a file, from there on.
send() { said dd if="$1" bs=1048576 skip="$2" count="$3"; }

# said PROGRAM ARGUMENTS...: without the statistics that dd prints where all is well.
said() {
	words=$({ "$@" 3>&-; } 2>&1 >&3) 3>&1 && return
	printf '%s\n' "$words" | grep -v 'records [a-z]*$\|records in$\|records out$\|copied' >&2
	return 1
}

# fetch LIMIT PATH: what a path leads to; the content of a file up to the limit, all that is below a directory.
fetch() {
	stat_ -L "$2" || exit
	if [ -d "$2" ]; then
		[ -r "$2" ] && [ -x "$2" ] || fail EACCES
		below "$2" 2>/dev/null
		unreadable "$2"
	elif [ -f "$2" ]; then
		[ -r "$2" ] || fail EACCES
		[ "$(stat -L -c %s "$2")" -gt "$1" ] && return
		printf '%s content\n' "$m"
		cat "$2"
	else
		fail EINVAL
	fi
}

# followed PATH: as `fetch` for a tree, with what links lead to in their place.
followed() {
	stat_ -L "$1" || exit
	printf '%s tree %s\0' "$m" "$1"
	find -L "$1/" -mindepth 1 -print0 | xargs -0 -r stat -L -c "$m$record"
	printf '%s links\n%s unreadable\n' "$m" "$m"
}

# tree KEY RESUME MANY DESTINATION NAME: prints `new` or `merge`, the tree to be written, its draft, and the sums of
# the files in that already. MANY: into a directory that is there.
tree() {
	if [ "$3" ]; then
		[ -d "$4" ] || { there "$4" && fail ENOTDIR; fail ENOENT; }
		final=$4
	else
		place "$4" "$5"
		! there "$final" || [ -d "$final" ] || fail ENOTDIR
	fi
	final=${final%/}
	d=$1
	if [ -d "$final" ]; then
		[ -w "$final" ] || fail EACCES
		how=merge draft=$final/.ossh-$d
	else
		how=new
		beside "$final"
	fi
	stale "$draft"
	[ "$2" ] || rm -rf "$draft"
	[ -d "$draft" ] || mkdir -m 700 "$draft" || exit
	printf '%s\0%s\0%s\0' "$how" "$final" "$draft"
	[ ! "$2" ] || (cd "$draft" && find . -type f -print0 | xargs -0 -r sha256sum -z 2>/dev/null)
	:
}

# unpack PRESERVE DRAFT: a tar stream on stdin. Nothing in a fresh draft can lead out of it.
unpack() {
	if [ "$1" ]; then
		tar -x -p -o -f - -C "$2"
	else
		tar -x -m -o --no-same-permissions -f - -C "$2"
	fi
}

# commit HOW EXIST_OK FINAL DRAFT: what was unpacked appears under its names. Names of files that are not to, are on
# stdin. Errors are told for each, and the others are moved.
commit() {
	if [ ! -d "$4" ] && [ -d "$3" ]; then
		return 0
	fi
	(cd "$4" && xargs -0 -r rm -f --) || return
	if [ "$1" = new ] && ! there "$3"; then
		mv -f -T "$4" "$3"
		return
	fi
	case $3 in /*) to=$3 ;; *) to=$PWD/$3 ;; esac
	cd "$4" || return
	result=0
	find . -mindepth 1 -type d -print0 | (cd "$to" && xargs -0 -r mkdir -p) || result=1
	if [ ! "$2" ]; then
		find . ! -type d -print0 | to=$to xargs -0 -r sh -c '
			for f; do
				if [ -e "$to/$f" ] || [ -L "$to/$f" ]; then
					printf "ossh-file %s: File exists\n" "${f#./}" >&2
					rm -f "$f"
					bad=1
				fi
			done
			exit $bad' sh || result=1
	fi
	find . -type d -print0 | to=$to xargs -0 -r sh -c '
		for d; do
			find "$d" -mindepth 1 -maxdepth 1 ! -type d -exec mv -f -t "$to/$d" {} + || bad=1
		done
		exit $bad' sh || result=1
	if [ "$5" ]; then
		find . -mindepth 1 -depth -type d -print0 | to=$to xargs -0 -r sh -c '
			for d; do touch -m -r "$d" "$to/$d"; chmod "$(stat -c %a "$d")" "$to/$d"; done' sh
	fi
	cd / && rm -rf "$4" 2>/dev/null
	return $result
}

# archive FOLLOW TOP: a tar stream of what is below a directory; of the names on stdin, or where there are none, of all.
archive() {
	if [ "$3" ]; then
		tar -c $1 -f - -C "$2" --no-recursion --null -T -
	else
		tar -c $1 -f - -C "$2" .
	fi
}
