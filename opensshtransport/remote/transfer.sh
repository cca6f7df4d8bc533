#!/bin/sh
# Moving files. Drafts are next to what they will become, or in the tree that they will be part of, so that everything
# appears by rename(2). The functions of `files.sh` are available.
# shellcheck disable=SC2154 # m, d, umask_, record and what files.sh sets are set before

# place DESTINATION NAME: sets `final` to what a source of this name becomes, as with `cp`.
place() {
	final=$1
	if [ -d "$1" ]; then
		case $1 in */) final=$1$2 ;; *) final=$1/$2 ;; esac
	fi
}

# dated TIME FILE: sets the time of the last change, SECONDS.NANOSECONDS; busybox supports only seconds.
dated() { touch -m -d "@$1" "$2" 2>/dev/null || touch -m -d "@${1%.*}" "$2"; }

# named MODE TIME EXIST_OK FINAL: `draft` gets its mode, its time and its name, or a file that is there its content. MODE
# is exact with a TIME, else less the umask where FINAL is new.
# shellcheck disable=SC2094 # it is opened to be changed, not to be read
named() {
	if [ "$3" ] && [ -f "$4" ] && over "$4" ${2:+stamp "$1" "$2"}; then
		rm -f "$draft"
		return
	fi
	{
		held "$draft" || fail EPERM
		if [ "$2" ]; then
			stamp "$1" "$2" "$held"
		elif [ -f "$4" ] && [ ! -L "$4" ]; then
			chmod "$(stat -c %a "$4")" "$held"
		else
			chmod "$(limited "$1")" "$held"
		fi
	} 9<"$draft" && if [ "$3" ]; then mv -f -T "$draft" "$4"; else appear "$4"; fi
}

# whole SIZE FILE: a file whose end is a hole gets its size; any other must have it.
whole() {
	if [ "$(stat -L -c %s "$2")" -lt "$1" ]; then truncate -c -s "$1" "$2" || exit; fi
	[ "$(stat -L -c %s "$2")" = "$1" ] || fail EIO
}

# settle SIZE MODE TIME EXIST_OK INODE FINAL: `draft`, which has this inode, becomes FINAL. If it is repeated after the
# answer was lost, it finds the work done.
# shellcheck disable=SC2094 # it is opened to be changed, not to be read
settle() {
	if [ ! -e "$draft" ] && [ -f "$6" ]; then
		case $(stat -c %i,%s "$6") in
		"$5,"*) return 0 ;;
		# if the file existed already, only this removes the draft
		*,"$1") [ ! "$4" ] || return 0 ;;
		esac
	fi
	# if others may write there, they may have put another one in its place
	{
		held "$draft" && [ "$(stat -L -c %i "$held")" = "$5" ] || fail EPERM
		whole "$1" "$held"
	} 9<"$draft"
	[ ! -d "$6" ] || fail EISDIR
	named "$2" "$3" "$4" "$6"
}

# aim EXIST_OK DESTINATION NAME: sets `target` to what is to be written, and looks whether it can be.
aim() {
	place "$2" "$3"
	case $final in */) if there "${final%/}"; then fail ENOTDIR; else fail ENOENT; fi ;; esac
	[ "$1" ] || ! there "$final" || fail EEXIST
	target "$final"
	# the shell says why it cannot be written, such as a running program
	[ ! -f "$target" ] || : >>"$target" || exit
}

# mine KIND PATH: whether a draft is this user's alone: of this kind, which nobody else can open, and of one name.
mine() {
	case $1,$(stat -c '%u %a %h %F' "$2" 2>/dev/null) in
	"file,$(id -u) 600 1 regular "*) ;;
	"directory,$(id -u) 700 "*' directory' | "directory,$(id -u) 2700 "*' directory') ;;
	*) return 1 ;;
	esac
}

# put_file SIZE MODE TIME EXIST_OK SUM DESTINATION NAME: stdin becomes a file, complete or not at all.
put_file() {
	aim "$4" "$6" "$7"
	if [ -e "$target" ] && [ ! -f "$target" ]; then
		cat >"$target"
		exit
	fi
	beside "$target"
	# it gets its mode at the end
	(umask 077 && set -C && keep "$1") || exit
	if [ "$5" ]; then
		case $(sha256sum <"$draft") in "$5"*) ;; *) rm -f "$draft"; fail EIO ;; esac
	fi
	named "$2" "$3" "$4" "$target" && exit
	rm -f "$draft"
	exit 1
}

# put_tree PRESERVE EXIST_OK MODE TIME MANY DESTINATION NAME: a tar stream on stdin becomes a tree.
put_tree() {
	tree "$d" '' "$5" "$6" "$7" >/dev/null
	unpack "$1" "$draft" || { result=$?; rm -rf "$draft"; exit "$result"; }
	commit "$how" "$2" "$3" "$4" "$final" "$draft" "$1"
}

# prepare KEY RESUME EXIST_OK MIBS COUNT DESTINATION NAME: prints the file to be written, its draft, that one's inode, and
# the sums of what is in it already.
prepare() {
	aim "$3" "$6" "$7"
	[ ! -e "$target" ] || [ -f "$target" ] || fail EINVAL
	other=$d d=$1
	beside "$target"
	# another process may have been first
	! there "$draft" || mine file "$draft" || { d=$other && beside "$target"; }
	stale "$draft"
	[ "$2" ] || rm -f "$draft"
	there "$draft" || (umask 077 && set -C && : >"$draft") || exit
	printf '%s\0%s\0%s\0' "$target" "$draft" "$(stat -c %i "$draft")"
	sums "$draft" "$4" "$5"
}

# scattered: stdin to stdout, where zeros become holes, if that can be done.
scattered() {
	conv=notrunc
	if dd if=/dev/null of=/dev/null conv=sparse 2>/dev/null; then conv=notrunc,sparse; fi
	said dd bs=65536 conv="$conv"
}

# begun FILE: makes an empty one, which nobody else can read, if there is none; within a draft.
begun() { [ -f "$1" ] && [ ! -L "$1" ] || { rm -f "$1" && (umask 077 && : >"$1") || exit; }; }

# stale DRAFT: removes drafts, of whatever else was to be moved here, that nobody has touched for a week. By both times:
# a draft that is about to get its name may have the time of its source already.
stale() {
	h='[0-9a-f][0-9a-f][0-9a-f][0-9a-f]'
	find "${1%/*}/" -maxdepth 1 \( -name ".ossh-$h$h$h" -o -name ".ossh-$h$h$h$h" \) -mtime +7 -ctime +7 \
		-user "$(id -u)" -exec rm -rf {} + 2>/dev/null
	:
}

# sums FILE MIBS COUNT: the sum of each so many MiB, of the first ones.
sums() {
	left=$(stat -L -c %s "$1") || return
	block=0
	while [ "$left" -gt 0 ] && [ $block -lt "$3" ]; do
		dd if="$1" bs=1048576 skip=$((block * $2)) count="$2" 2>/dev/null | sha256sum
		block=$((block + 1)) left=$((left - $2 * 1048576))
	done
}

# sparse FILE: whether a MiB or more of it is holes.
sparse() {
	taken=$(stat -L -c %b "$1") size=$(stat -L -c %s "$1") || return
	[ $((taken * 512 + 1048576)) -le "$size" ]
}

# filled FILE MIBS COUNT: of a file with holes, for each block of so many MiB, x, or - where it is all zeros.
filled() {
	sparse "$1" || return 0
	block=0
	while [ $block -lt "$3" ]; do
		if [ "$(dd if="$1" bs=1048576 skip=$((block * $2)) count="$2" 2>/dev/null | tr -d '\0' | head -c 1 | wc -c)" -eq 0 ]; then
			printf -- -
		else
			printf x
		fi
		block=$((block + 1))
	done
}

# receive DRAFT FRESH INODE: parts of a file into a draft, which still has this inode, where there is /proc to tell. Each
# is a line on stdin, `MIB MIBS BYTES`, from where on and how much, and its bytes. Zeros are left out where nothing was.
receive() {
	conv=notrunc
	if [ "$2" ] && dd if=/dev/null of=/dev/null conv=sparse 2>/dev/null; then conv=notrunc,sparse; fi
	while IFS=' ' read -r from mibs rest; do
		# a draft that was given up must not be created again
		[ -f "$1" ] && into "$3" 1<>"$1" || exit
	done
}

# into INODE: the part of `receive`, to stdout. Larger blocks are written more slowly, by up to four times on some systems.
into() {
	if [ "$1" ]; then
		opened=$({ stat -L -c %i /proc/self/fd/3 || echo "$1"; } 2>/dev/null) 3>&1
		[ "$opened" = "$1" ] || fail EPERM
	fi
	said dd bs=65536 seek=$((from * 16)) count=$((mibs * 16)) iflag=fullblock conv="$conv" &&
		{ [ "$rest" -eq 0 ] || said dd bs="$rest" count=1 iflag=fullblock conv="$conv"; }
}

# send FILE: parts of a file, each named by a line on stdin, as for `receive`.
send() {
	while IFS=' ' read -r from mibs rest; do
		out <"$1" || exit
	done
}

# out: the part of `send`, from stdin; larger blocks no longer fit the processor's cache. Who waits for what is no
# longer there would wait forever.
out() {
	said dd bs=65536 skip=$((from * 16)) count=$((mibs * 16)) && full $((mibs * 16)) &&
		{ [ "$rest" -eq 0 ] || { said dd bs="$rest" count=1 && full 1; }; }
}

# full N: whether dd has read this many blocks.
full() { case $words in "$1+0 "*) ;; *) fail EBUSY ;; esac; }

# said PROGRAM ARGUMENTS...: runs it without the statistics that dd prints on success.
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
		below "$2"
		unreadable "$2"
	elif [ -f "$2" ]; then
		[ -r "$2" ] || fail EACCES
		if [ "$(stat -L -c %s "$2")" -gt "$1" ]; then
			! sparse "$2" || printf '%s sparse\n' "$m"
			return
		fi
		printf '%s content\n' "$m"
		# it may be written to meanwhile
		cat "$2" && printf '%s after\n' "$m" && stat_ -L "$2"
	else
		fail EINVAL
	fi
}

# followed LIMIT PATH: as `fetch`, but a tree with what links lead to in their place.
followed() {
	[ -d "$2" ] || { fetch "$@"; return; }
	stat_ -L "$2" || exit
	[ -r "$2" ] && [ -x "$2" ] || fail EACCES
	printf '%s tree %s\0' "$m" "$2"
	{ find -L "$2/" -mindepth 1 ! -type l -print0 || ended $?; } | { xargs -0 -r stat -L -c "$m$record" || ended $?; }
	printf '%s links\n%s unreadable\n' "$m" "$m"
	# dangling links, and those that find takes for a circle
	find -L "$2/" -mindepth 1 -type l -print0 2>/dev/null
}

# why: of each of the NUL-separated paths on stdin, `-` where nothing is, `x` where it cannot be read, or `o`.
# shellcheck disable=SC2016 # it is another shell's to read
why() {
	xargs -0 -r sh -c 'for p; do if [ ! -e "$p" ] && [ ! -L "$p" ]; then printf -- -; elif [ -r "$p" ]; then printf o; else printf x; fi; done' sh
}

# sums_of: of each of the NUL-separated paths on stdin the sum, if it is available, as `sha256sum -z` prints them.
# shellcheck disable=SC2016 # it is another shell's to read
sums_of() {
	if sha256sum -z </dev/null >/dev/null 2>&1; then
		xargs -0 -r sha256sum -z -- 2>/dev/null
	else
		xargs -0 -r sh -c 'for f; do s=$(sha256sum <"$f") && printf "%s  %s\0" "${s%% *}" "$f"; done' sh 2>/dev/null
	fi
	:
}

# beginning SIZE FILE: the checksum of this many bytes.
beginning() { head -c "$1" "$2" | sha256sum; }

# beginnings: of each pair of a size and a path on stdin the sum, as `sums_of` prints it.
# shellcheck disable=SC2016 # it is another shell's to read
beginnings() {
	xargs -0 -r -n 200 sh -c 'while [ $# -gt 0 ]; do
		[ ! -f "$2" ] || { s=$(head -c "$1" "$2" | sha256sum) && printf "%s  %s\0" "${s%% *}" "$2"; }
		shift 2
	done' sh 2>/dev/null
	:
}

# placed DESTINATION NAME: prints what a tree becomes, because once it exists, a second try would put it below itself.
placed() {
	place "$1" "$2"
	! there "$final" || [ -d "$final" ] || fail ENOTDIR
	# what was not named itself is no link, for `cp` neither
	[ "$final" = "$1" ] || [ ! -L "$final" ] || fail ENOTDIR
	printf %s "$final"
}

# tree KEY RESUME MANY DESTINATION NAME: prints `new` or `merge`, the tree to be written, its draft, and the sums of
# the files in that already. MANY: into a directory that is there; where it is `contents`, into one of this name.
tree() {
	if [ "$3" ]; then
		[ -d "$4" ] || { there "$4" && fail ENOTDIR; [ "$3" = contents ] || fail ENOENT; }
		final=$4
	else
		placed "$4" "$5" >/dev/null
	fi
	final=${final%/}
	case $final in /*) ;; '') final=/ ;; *) final=$PWD/$final ;; esac
	trusted "$final"
	final=${followed:-$final}
	other=$d d=$1
	if [ -d "$final" ]; then
		[ -w "$final" ] || fail EACCES
		how=merge up=${final%/}/
	else
		how=new
		above "$final"
	fi
	draft=$up.ossh-$d
	for p in "$draft" "$draft.old"; do
		# another process may have been first
		! there "$p" || mine directory "$p" || draft=$up.ossh-$other
	done
	stale "$draft"
	# a killed transfer may still be unpacking there: it must not find what it looks for
	rm -rf "$draft.old" || exit
	if [ -d "$draft" ] && [ ! -L "$draft" ] && [ "$2" ]; then mv -f -T "$draft" "$draft.old" || exit; else rm -rf "$draft"; fi
	# by the umask: busybox's `mkdir -m` drops the set-group-ID bit
	(
		umask 077 && cd -P -- "$up" || exit
		reached "${up%/}"
		mkdir "${draft##*/}" && mkdir "${draft##*/}/t"
	) || exit
	if [ -d "$draft.old/t" ]; then
		find "$draft.old/t" -mindepth 1 -maxdepth 1 -exec mv -f -t "$draft/t" {} + || exit
	fi
	rm -rf "$draft.old"
	printf '%s\0%s\0%s\0' "$how" "$final" "$draft"
	# large files have sums of their parts
	[ ! "$2" ] || (cd "$draft/t" && find . -type f -size -131072 -print0 | sums_of)
	:
}

# part_of FILE RESUME MIBS COUNT: a large file of a tree; prints the sums of what is in it already.
part_of() {
	[ "$2" ] || rm -f "$1"
	begun "$1"
	sums "$1" "$3" "$4"
}

# part_done FILE SIZE MODE TIME: it is complete.
part_done() {
	whole "$2" "$1"
	if [ "$4" ]; then chmod "$3" "$1" && dated "$4" "$1"; else chmod "$(limited "$3")" "$1"; fi
}

# reached DIRECTORY: whether the present one is what has this path, which had no links when it was looked at. Where
# others may write, they may have put one in its place since.
reached() {
	# shellcheck disable=SC2046 # one word for each
	set -- $(stat -c %d,%i . "${1:-/}")
	[ "$1" = "$2" ] || fail EACCES
}

# within DRAFT: goes there. What is named from there, `..` included, nobody else can put somewhere else.
within() {
	cd -P -- "$1" || exit
	case $(stat -c %A ..) in
	?????w* | ????????w*) [ "${PWD##*/}" = "${1##*/}" ] && [ "$(stat -c %u .)" = "$(id -u)" ] || fail EPERM ;;
	esac
}

# unpack PRESERVE DRAFT: a tar stream on stdin. Nothing in a fresh draft can lead out of it.
unpack() {
	(
		within "$2"
		if [ "$1" ]; then
			tar -x -p -o -f -
		else
			tar -x -m -o --no-same-permissions -f -
		fi
	)
}

# commit HOW EXIST_OK MODE TIME FINAL DRAFT PRESERVE: what was unpacked to DRAFT/t appears under its names. DRAFT/spoilt names
# files that are not to; DRAFT/modes has mode, time or nothing, and name of directories; MODE and TIME are those of the
# top, which come last, since the draft lies within. Errors are told for each, and the others are moved.
# shellcheck disable=SC2016 # it is another shell's to read
commit() {
	exist_ok=$2 exact=$7
	# as `join` has left it
	if [ ! -d "$6" ] && [ -d "$5/${6##*/}" ]; then set -- merge "$2" "$3" "$4" "$5" "$5/${6##*/}" "$7"; fi
	if [ ! -d "$6" ]; then
		[ -d "$5" ] || fail ENOENT
		return 0
	fi
	within "$6"
	result=0 name=${6##*/} draft=..
	case $1 in merge) to=../.. ;; *) to=../../${5##*/} ;; esac
	if cd -P t 2>/dev/null; then
		xargs -0 -r rm -f -- <../spoilt || exit
		words='' how=merge
		inherit
		if [ "$1" = new ] && ! there "$to" && words=$(mv -f -T ../t "$to" 2>&1); then
			# the current directory has moved
			how=new to=.
		elif [ -z "$words" ] || [ -d "$to" ]; then
			# it exists, perhaps only because another process has moved one there
			[ "$1" = merge ] || join "${5##*/}"
			merge
		else
			printf '%s\n' "$words" >&2
			cd -P ../.. && rm -rf "$name"
			exit 1
		fi
	else
		# it has been moved already
		how=$1 to=${to#../}
	fi
	cd -P -- "$to" || exit
	if [ "$how" = new ]; then draft=../$name; else draft=$name; fi
	# deepest first: what is closed afterwards has its content
	umask_=$umask_ kept=$draft/t xargs -0 -r -n 300 sh -c '
		while [ $# -gt 2 ]; do
			mode=""
			if [ "$2" ]; then
				touch -m -d "@$2" "$3" 2>/dev/null || touch -m -d "@${2%.*}" "$3"
				mode=$((0$1))
			elif [ ! -d "$kept/$3" ] && [ $((0$1 & ~0$umask_)) -ne $((0777 & ~0$umask_)) ]; then
				mode=$((0$1 & ~0$umask_))
			fi
			if [ "$mode" ]; then
				# as `keeping`
				[ ! -g "$3" ] || mode=$((mode | 1024))
				chmod "$(printf %o "$mode")" "$3" || bad=1
			fi
			shift 3
		done
		exit $bad' sh <"$draft/modes" || result=1
	rm -rf "$draft" 2>/dev/null
	if [ "$4" ]; then
		{ dated "$4" . && keeping "$3" .; } || result=1
	elif [ "$how" = new ] && [ "$3" ]; then
		keeping "$(limited "$3")" . || result=1
	fi
	return $result
}

# inherit: as what is made in a set-group-ID directory, all that is in the present one, which is a part of such a draft,
# has its group, and directories have the bit, which tar takes from them.
inherit() {
	[ -g "$draft" ] || return 0
	group=$(stat -c %g "$draft") || return
	find . -type d ! -perm -2000 -exec chmod g+s {} +
	find . ! -group "$group" -exec chgrp -h "$group" {} + 2>/dev/null
	:
}

# keeping MODE DIRECTORY: chmod, but for a set-group-ID bit that is there; busybox would take it.
keeping() {
	if [ -g "$2" ]; then chmod "$(printf %o $((0$1 | 1024)))" "$2"; else chmod "$1" "$2"; fi
}

# join NAME: moves the draft, whose `t` is the current directory, into the directory of this name next to it, and
# follows.
join() {
	to=../..
	if cd -P ../.. && [ ! -L "$1" ] && cd -P -- "$1" && mv -f -T "../$name" "$name" && mine directory "$name"; then
		cd -P "$name/t" || exit
	else
		fail EACCES
	fi
}

# merge: from the present directory into `to`.
# shellcheck disable=SC2016 # it is another shell's to read
merge() {
	export to
	find . -mindepth 1 -type d -print0 | xargs -0 -r sh -c '
		for d; do
			if [ -L "$to/$d" ] || { [ -e "$to/$d" ] && [ ! -d "$to/$d" ]; }; then
				printf "ossh-file %s: Not a directory\n" "${d#./}" >&2
				rm -rf "$d"
			elif [ -d "$d" ] && [ ! -d "$to/$d" ]; then
				printf "%s\0" "$d"
			fi
		done' sh >"$draft/made" || result=1
	(cd -P -- "$to" && xargs -0 -r mkdir -p --) <"$draft/made" || result=1
	[ ! "$exist_ok" ] || overs "$exact"
	if [ "$exist_ok" ]; then option=-f; else option=-n; fi
	find . -type d -print0 | option=$option xargs -0 -r sh -c '
		for d; do
			# what is made in a set-group-ID directory has its group
			if [ -g "$to/$d" ] && group=$(stat -c %g "$to/$d"); then
				find "$d" -mindepth 1 -maxdepth 1 ! -type d ! -group "$group" -exec chgrp -h "$group" {} + 2>/dev/null
			fi
			find "$d" -mindepth 1 -maxdepth 1 ! -type d -exec mv $option -t "$to/$d" {} + || bad=1
		done
		exit $bad' sh || result=1
	# what is left of the draft was there before
	xargs -0 -r rm -rf -- <"$draft/made" || result=1
	# if two want the same name, rename(2) leaves out one
	[ "$exist_ok" ] || find . ! -type d -print0 | xargs -0 -r sh -c '
		for f; do printf "ossh-file %s: File exists\n" "${f#./}" >&2; done; exit 1' sh || result=1
}

# overs PRESERVE: regular files in `to` get the content of those of the same names here, and stay the same files. What
# cannot be written, or runs, is left to be replaced; and so is that where it fails.
# shellcheck disable=SC2016 # it is another shell's to read
overs() {
	# any cp but that of GNU replaces its destination
	case $(cp --version 2>/dev/null) in *'GNU coreutils'*) gnu=yes ;; *) gnu='' ;; esac
	# hard links must become hard links again
	find . -type f -links 1 -print0 | gnu=$gnu exact=$1 xargs -0 -r sh -c '
		over() {
			if [ "$gnu" ]; then
				cp ${exact:+--preserve=mode,timestamps} -t "$to/$up" -- "$@" 2>/dev/null
			else
				for g; do
					cat "$g" 2>/dev/null >"$to/$g" && { [ ! "$exact" ] || { chmod "$(stat -c %a "$g")" "$to/$g" && touch -r "$g" "$to/$g"; }; } || return
				done
			fi && rm -f -- "$@"
		}
		up=""
		for f; do
			if [ "$up" != "${f%/*}" ]; then
				[ ! "$up" ] || [ $# -eq 0 ] || over "$@"
				up=${f%/*}
				set --
			fi
			if [ -f "$to/$f" ] && [ ! -L "$to/$f" ] && { true >>"$to/$f"; } 2>/dev/null; then
				set -- "$@" "$f"
			fi
		done
		[ $# -eq 0 ] || over "$@"
		:' sh
}

# archive FOLLOW TOP LISTED: a tar stream of what is below a directory; of the names on stdin, or of all.
archive() {
	if [ "$3" ]; then
		tar -c ${1:+"$1"} -f - -C "$2" --no-recursion --null -T -
	else
		tar -c ${1:+"$1"} -f - -C "$2" .
	fi
}
