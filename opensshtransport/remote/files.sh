#!/bin/sh
# The file operations. Each runs in a subshell; the other side translates its stderr into an errno. Paths never begin
# with `-`. `m` is a random mark before each record of a file, so that no name can look like one; `d` makes the names of
# drafts.
# shellcheck disable=SC2154 # m and d come with the request, umask_ from the shell

case $(stat -c %.9Y /) in
*.*) times='%.9X %.9Y %.9Z' ;;
# busybox prints nanoseconds only together with the date
*) times='%X.%x %Y.%y %Z.%z' ;;
esac
record=" %f %h %i %d %s %u %g $times %n"

there() { [ -e "$1" ] || [ -L "$1" ]; }

# limited MODE: a mode as open(2) and mkdir(2) take it, less the umask.
limited() { printf '%o' $((0$1 & ~0$umask_)); }

# leads LINK: sets `to` to where a link leads; a mark keeps newlines at its end.
leads() {
	to=$(readlink -n "$1" && echo .) || return
	to=${to%.}
	case $to in /*) ;; *) case $1 in */*) to=${1%/*}/$to ;; esac ;; esac
}

# real PATH: the file that a path leads to, if its directory is there; a mark at the end keeps newlines. Links are
# followed by ourselves: busybox takes one that leads nowhere as seen from the working directory.
real() {
	set -- "$1" 40
	while [ -L "$1" ]; do
		[ "$2" -gt 0 ] && leads "$1" || return
		set -- "$to" $(($2 - 1))
	done
	# the kernel ends a circle, GNU's readlink does not
	case $1 in */*) [ -d "${1%/*}/" ] || return ;; esac
	readlink -n -f "$1" && echo .
}

# above PATH: sets `up` to the directory of a path, which must exist; dash would not say why it does not.
above() {
	case $1 in
	*/*) up=${1%/*}/ ;;
	*) up=./ ;;
	esac
	[ -d "$up" ] || { stat "$up." >/dev/null && fail ENOTDIR; exit 1; }
}

# enter PATH: sets `where` to a directory's path without links, if it can be entered; by no other program.
enter() {
	cd -P -- "$1" 2>/dev/null || return
	# bash keeps a second slash at the beginning
	case $PWD in //*) where=${PWD#/} ;; *) where=$PWD ;; esac
	cd -- "$home_" || exit
}

# beside PATH: sets `draft` to a new name in the same directory.
beside() {
	above "$1"
	draft=$up.ossh-$d
}

# file PATH: fails for a directory, which cannot be read.
file() {
	[ -d "$1" ] || return 0
	[ -r "$1" ] || fail EACCES
	fail EISDIR
}

stat_() { stat -c "$m$record" "$@"; }

# ended STATUS: tells of an end that the program itself has not told of, as find does with 1, and xargs with 123.
ended() { case $1 in 1 | 123) ;; *) printf 'ossh: EIO\n' >&2 ;; esac; }

# below PATH OPTIONS...: records of what is below a directory, and then of what the links among it lead to. What is
# said on stderr is what they lack.
below() {
	top=$1
	shift
	printf '%s tree %s\0' "$m" "$top"
	{ find "$top/" -mindepth 1 "$@" -print0 || ended $?; } | { xargs -0 -r stat -c "$m$record" || ended $?; }
	printf '%s links\n' "$m"
	find "$top/" -mindepth 1 "$@" -type l -print0 2>/dev/null | xargs -0 -r stat -L -c "$m$record" 2>/dev/null
	:
}

scan() {
	# its own message says why it cannot be read
	[ -d "$1" ] || { find "$1/" -maxdepth 0; exit 1; }
	[ -r "$1" ] && [ -x "$1" ] || fail EACCES
	below "$1" -maxdepth 1
}

# only links to the start are followed
scan_all() {
	[ -d "$1" ] || { find "$1/" -maxdepth 0; exit 1; }
	[ -r "$1" ] && [ -x "$1" ] || fail EACCES
	below "$1"
	unreadable "$1"
}

# names PATH: status 3 means that messages were about its content, and not about itself.
names() {
	find "$1/" -mindepth 1 -maxdepth 1 -print0 && return
	[ -d "$1" ] && exit 3
	exit 1
}

# unreadable PATH: directories whose content is not available.
unreadable() {
	printf '%s unreadable\n' "$m"
	# shellcheck disable=SC2016 # it is another shell's to read
	find "$1/" -type d -print0 2>/dev/null | xargs -0 -r sh -c 'for d; do [ -r "$d" ] && [ -x "$d" ] || printf "%s\0" "$d"; done' sh
}

# matching WORDS...: those that exist, of what a pattern was expanded to.
matching() {
	for p; do
		there "$p" && printf '%s\0' "$p"
	done
	:
}

# trees WORDS...: what is below the directories that a pattern was expanded to.
trees() {
	for p; do
		[ -d "$p" ] && below "$p" 2>/dev/null
	done
	:
}

# exist: for each of the NUL-separated paths on stdin, 1 if it exists.
# shellcheck disable=SC2016 # it is another shell's to read
exist() { xargs -0 -r sh -c 'for p; do [ -e "$p" ] && printf 1 || printf 0; done' sh; }

# remove: the NUL-separated paths on stdin; prints the missing ones, and each that is left with why.
# shellcheck disable=SC2016 # it is another shell's to read
remove() {
	xargs -0 -r sh -c '
		for p; do [ -e "$p" ] || [ -L "$p" ] || printf "missing %s\0" "$p"; done
		rm -f -- "$@" 2>/dev/null || for p; do
			if [ -e "$p" ] || [ -L "$p" ]; then
				# only this message counts, and the file may be gone by now
				said=$(rm -f -- "$p" 2>&1) || printf "left %s\0%s\0" "$p" "$said"
			fi
		done
		:' sh
}

# directory MODE PATH: by the umask, since busybox's `mkdir -m` drops the setgid bit that is inherited.
directory() {
	[ "$1" = 777 ] || umask "$(printf '%o' $((0777 & ~(0$1 & ~0$umask_))))"
	mkdir "$2" || return
	[ $((0$1 & 01000)) -eq 0 ] || chmod +t "$2"
}

mkdir_() {
	# mode, parents, exist_ok, path
	if [ -d "$4" ]; then
		[ "$3" ] || fail EEXIST
		return 0
	fi
	if [ "$2" ]; then
		up=${4%/*}
		if [ "$up" != "$4" ] && [ "$up" ] && [ ! -d "$up" ]; then
			# a file on the way: with -p mkdir(1) may name another error than mkdir(2)
			! there "$up" || { mkdir "$4"; exit; }
			mkdir -p "$up" || exit
		fi
	fi
	directory "$1" "$4" && return
	# another process may have been faster
	[ "$3" ] && [ -d "$4" ] && exit 0
	exit 1
}

rmtree() {
	[ -L "$1" ] && fail ENOTDIR
	if [ ! -d "$1" ]; then
		there "$1" && fail ENOTDIR
		stat "$1" >/dev/null
		exit 1
	fi
	# not what holds the home directory either
	if enter "$1"; then
		case $home_/ in "${where%/}"/*) fail EPERM ;; esac
	fi
	rm -rf -- "$1"
}

rename() {
	# the kernel looks for the directories first
	above "$1"
	case ${2%/} in
	*/*) up=${2%/} up=${up%/*}/ ;;
	*) up=./ ;;
	esac
	# if both are missing, rename(2) reports the directory
	ids=$(stat -c %d:%i "$1" "$up.") || exit
	from=${ids%%[!0-9:]*} to=${ids##*[!0-9:]}
	if there "$2"; then
		# of two names of one file it removes none
		[ "$from" != "$(stat -c %d:%i "$2")" ] || exit 0
		if [ -d "$2" ] && [ ! -L "$2" ]; then
			[ -d "$1" ] && [ ! -L "$1" ] || fail EISDIR
		else
			[ ! -d "$1" ] || [ -L "$1" ] || fail ENOTDIR
		fi
	fi
	[ "${from%:*}" = "${to%:*}" ] || fail EXDEV
	if { [ -L "$2" ] && [ -d "$2" ]; } || { [ -L "$1" ] && [ "$1" -ef "$2" ]; }; then
		# busybox does not replace a link to a directory, and nothing replaces a link's target by the link
		mv -f -T "$1" "$2" 2>/dev/null && exit
		beside "$2"
		mv -f -T "$2" "$draft" || exit
		if mv -f -T "$1" "$2"; then
			rm -f "$draft"
			exit
		fi
		mv -f -T "$draft" "$2"
		exit 1
	fi
	mv -f -T "$1" "$2"
}

symlink() {
	! there "$2" || fail EEXIST
	# it would be put into a directory that has appeared since
	ln -s -n -- "$1" "$2"
}

link_() {
	if [ ! -L "$1" ]; then
		there "$1" && fail EINVAL
		stat "$1" >/dev/null
		exit 1
	fi
	readlink -n "$1"
}

# resolved PATH: as realpath(3), but what is missing at the end is kept.
resolved() {
	rest='' path=$1
	case $path in /*) ;; *) path=$PWD/$path ;; esac
	seen=//
	while ! found=$(real "$path"); do
		case $seen in
		*"//$path//"*) ;;
		*)
			seen=$seen$path//
			# even a dangling link counts
			if [ -L "$path" ] && leads "$path"; then
				path=$to
				continue
			fi
			;;
		esac
		last=${path##*/}
		path=${path%/*}
		case $last in '' | .) continue ;; esac
		rest=$last${rest:+/$rest}
		[ "$path" ] || path=/
	done
	printf '%s\0%s' "${found%.}" "$rest"
}

touch_() {
	# mode, exist_ok, path
	trusted "$3"
	case $2$3 in
	yes*) ;;
	*/) fail EISDIR ;;
	esac
	if there "$3"; then
		[ "$2" ] || fail EEXIST
		touch "$3"
		exit
	fi
	case $3 in */) fail EISDIR ;; esac
	limit=$(limited "$1")
	umask "$(printf '%o' $((0777 & ~0$limit)))"
	if [ "$2" ]; then
		touch "$3" || exit
	else
		above "$3"
		# open(2) with O_EXCL: only one of several creates it
		(set -C && : >"$3") || { ! there "$3" || fail EEXIST; exit 1; }
	fi
	# neither of them creates executables
	[ $((0$limit & 0111)) -eq 0 ] || chmod "$limit" "$3"
}

# foreign LINK DIRECTORY: whether a link is of neither us nor the owner of its directory, to which everybody can write; and
# whether it has been swapped since it was seen to be a link. One lstat(2) tells both.
foreign() {
	ids=$(stat -c '%u,%A' "$1" "$2") || return 0
	case ${ids##*,} in d???????w*) ;; *) return 1 ;; esac
	case $ids in [0-9]*,l*) ;; *) return 0 ;; esac
	owner=${ids%%,*} ids=${ids%,*}
	[ "$owner" != "$(id -u)" ] && [ "$owner" != "${ids##*[!0-9]}" ]
}

# trusted PATH: sets `followed` to what a path leads to, empty for a circle. Ends the request where a foreign link is on the
# way, as fs.protected_symlinks (proc(5)) does for the last one, whether or not the kernel does it. What is done with
# `followed` goes nowhere else, even if somebody has put a link in its place since.
trusted() {
	followed=''
	# the part that was followed, the rest, the number of links
	case $1 in /*) set -- / "$1" 40 ;; *) set -- '' "$1" 40 ;; esac
	while [ "$2" ]; do
		case $2 in */*) set -- "$1" "${2#*/}" "$3" "${2%%/*}" ;; *) set -- "$1" '' "$3" "$2" ;; esac
		if [ ! "$4" ]; then
			continue
		elif [ ! -L "$1$4" ]; then
			set -- "$1$4/" "$2" "$3"
			continue
		fi
		! foreign "$1$4" "${1:-./}" || fail EACCES
		# the kernel reports a circle
		[ "$3" -gt 0 ] && link=$(readlink -n "$1$4" && echo .) || return 0
		case $link in
		/*) set -- / "${link%.}/$2" $(($3 - 1)) ;;
		*) set -- "$1" "${link%.}/$2" $(($3 - 1)) ;;
		esac
	done
	followed=${1%/}
	[ "$followed" ] || followed=/
}

# target PATH: sets `target` to what writing to a path replaces.
target() {
	case $1 in */) fail EISDIR ;; esac
	trusted "$1"
	target=$followed
	[ "$target" ] || { stat -L "$1" >/dev/null; exit 1; }
	[ ! -d "$target" ] || fail EISDIR
	# the shell says why it cannot be written
	! there "$target" || [ -w "$target" ] || : >>"$target" || exit
}

# keep SIZE: stdin into `draft`, all of it or nothing.
keep() {
	cat >"$draft" && [ "$(wc -c <"$draft")" -eq "$1" ] && return
	rm -f "$draft"
	exit 1
}

write() {
	# size, mode, exist_ok, path
	case $4 in */) fail EISDIR ;; esac
	[ "$3" ] || ! there "$4" || fail EEXIST
	target "$4"
	if [ -e "$target" ] && [ ! -f "$target" ]; then
		cat >"$target"
		exit
	fi
	beside "$target"
	# meanwhile nobody can read what they must not
	if [ -f "$target" ] || [ "$2" != 666 ]; then umask 077; fi
	(set -C && keep "$1") || exit
	if [ -f "$target" ] && [ ! -L "$target" ]; then
		chmod "$(stat -c %a "$target")" "$draft"
	elif [ "$2" != 666 ]; then
		chmod "$(limited "$2")" "$draft"
	fi && if [ "$3" ]; then mv -f -T "$draft" "$target"; else appear "$target"; fi && exit
	rm -f "$draft"
	exit 1
}

# appear PATH: `draft` gets this name if it does not exist: link(2) never replaces one.
appear() {
	if ln "$draft" "$1" 2>/dev/null; then
		rm -f "$draft"
	elif there "$1"; then
		rm -f "$draft"
		fail EEXIST
	else
		# a file system without hard links
		mv -f -T "$draft" "$1"
	fi
}

# held FILE: sets `held` to what leads to the file that is open as 9, where there is /proc to do so. It must be what has
# this name: where others may write, they may have put a link in its place, which was followed.
held() {
	held=$1
	# shellcheck disable=SC2046 # one word for each
	set -- $(stat -c %d,%i "$1" && stat -L -c %d,%i /proc/self/fd/9 2>/dev/null)
	[ ! "$2" ] || { held=/proc/self/fd/9 && [ "$1" = "$2" ]; }
}

# stamp MODE TIME FILE
stamp() { chmod "$1" "$3" && dated "$2" "$3"; }

# alike FILE: mode and time as those of `draft`.
alike() { chmod "$(stat -c %a "$draft")" "$1" && touch -r "$draft" "$1"; }

# supplant FINAL PRESERVE: `draft` gets this name. A regular file that is there gets the content instead, as by cp: it
# stays the same file, with its mode and hard links. Where that fails, the draft has all of it, and takes the name.
supplant() {
	if [ -f "$1" ] && over "$1" ${2:+alike}; then rm -f "$draft"; else mv -f -T "$draft" "$1"; fi
}

# over FINAL [FUNCTION ARGUMENTS...]: the content of `draft` into a file that is there, and then the function with this
# file as its last argument. What needs room comes first, so that on a full disk the file is as it was.
# shellcheck disable=SC2094 # it is written by its name while it is locked
over() {
	# a link comes from somebody who was faster
	[ ! -L "$1" ] || return
	# two that write at once must not mix; not every flock has -w, and without it this could wait forever
	{
		held "$1" || return
		shift
		flock -w 10 9 2>/dev/null
		size=$(stat -c %s "$draft") && old=$(stat -L -c %s "$held") || return
		blocks=$(((old + 65535) / 65536))
		# over existing content, holes would take space
		if [ "$old" -gt 0 ] && sparse "$draft"; then
			truncate -c -s 0 "$held" && scattered <"$draft" 1<>"$held"
		elif [ "$size" -gt $((blocks * 65536)) ] && ! said dd bs=65536 skip=$blocks seek=$blocks conv=notrunc <"$draft" 1<>"$held"; then
			truncate -c -s "$old" "$held"
			return 1
		else
			said dd bs=65536 count=$blocks conv=notrunc <"$draft" 1<>"$held"
		fi && truncate -c -s "$size" "$held" && { [ $# = 0 ] || "$@" "$held"; }
	} 9>>"$1"
}

append() {
	target "$2"
	beside "$target"
	exclusive=-C
	if [ ! -w "${draft%/*}" ]; then
		: >>"$target" || exit
		draft=$(mktemp) || exit
		exclusive=+C
	fi
	(umask 077 && set "$exclusive" && keep "$1") || exit
	cat "$draft" >>"$target"
	status=$?
	rm -f "$draft"
	exit $status
}

truncate_() {
	trusted "$2"
	[ -e "$2" ] || { stat -L "$2" >/dev/null; exit 1; }
	[ ! -d "$2" ] || fail EISDIR
	[ -w "$2" ] || : >>"$2" || exit
	truncate -c -s "$1" "$2"
}

read_() {
	file "$1"
	cat "$1"
}

part() {
	# head or tail, -n or -c, how much, path
	file "$4"
	# for an empty part, the file need not be opened
	[ -e "$4" ] || { stat -L "$4" >/dev/null; exit 1; }
	"$1" "$2" "$3" "$4"
}

checksum() {
	file "$2"
	"$1" "$2"
}

size() {
	there "$1" || { stat "$1" >/dev/null; exit 1; }
	{ find "$1" -type f -print0 || ended $?; } | { xargs -0 -r stat -c %s || ended $?; } | awk '{ s += $1 } END { printf "%.0f", s }'
}

# copy_ OPTIONS SOURCE DESTINATION NAME: as `cp -r`; what is new appears under its name when it is complete. NAME is `.`
# where what is in a directory is copied, and not the directory.
copy_() {
	follows='' exact=yes
	case $1 in *[HL]*) follows=yes ;; esac
	if [ ! -e "$2" ]; then
		if [ "$follows" ]; then option=-L; else option=''; fi
		stat $option "$2" >/dev/null || exit
	fi
	to=$3
	if [ -d "$to" ] && [ "$4" != . ]; then
		case $to in */) to=$to$4 ;; *) to=$to/$4 ;; esac
	fi
	trusted "$to"
	if [ -d "$2" ] && { [ ! -L "$2" ] || [ "$follows" ]; }; then
		there "$to" && [ ! -d "$to" ] && fail ENOTDIR
		# a copy into itself?
		enter "$2" || fail EACCES
		outer=$where
		inner=$to
		if [ ! -d "$to" ]; then
			to=${to%/}
			above "$to"
			inner=$up
		fi
		enter "$inner" || fail EACCES
		case $where/ in "$outer"/*) fail EINVAL ;; esac
		if [ -d "$to" ]; then
			cp "$1" "$2/." "$to"
			exit
		fi
	else
		[ ! -d "$to" ] || [ -L "$to" ] || fail EISDIR
		case $to in */) fail ENOTDIR ;; esac
		[ "$2" -ef "$to" ] && [ ! -L "$2" ] && fail EEXIST
		target "$to"
		to=$target
		if [ -e "$to" ] && [ ! -f "$to" ]; then
			cat "$2" >"$to"
			exit
		fi
	fi
	beside "$to"
	if cp "$1" "$2" "$draft"; then
		if [ -f "$to" ] && [ ! -L "$to" ] && [ -f "$draft" ] && [ ! -L "$draft" ]; then
			case $1 in *[ap]*) ;; *) chmod "$(stat -c %a "$to")" "$draft" && exact='' ;; esac && supplant "$to" "$exact" && exit
		else
			mv -f -T "$draft" "$to" && exit
		fi
	fi
	rm -rf "$draft"
	exit 1
}
