# The file operations. Each runs in a subshell; what it says on stderr is translated into an errno by the other side.
# Paths never begin with `-`. `m` is a random mark before each record of a file, so that no name can look like one;
# `d` makes the names of drafts.

case $(stat -c %.9Y /) in
*.*) times='%.9X %.9Y %.9Z' ;;
# busybox prints nanoseconds only with the date
*) times='%X.%x %Y.%y %Z.%z' ;;
esac
record=" %f %h %i %d %s %u %g $times %n"

there() { [ -e "$1" ] || [ -L "$1" ]; }

# limited MODE: a mode as open(2) and mkdir(2) take it, less the umask.
limited() { printf '%o' $((0$1 & ~0$umask_)); }

# real PATH: the file that a path leads to, if its directory is there; a mark at the end keeps newlines.
real() { readlink -n -f "$1" && echo .; }

# beside PATH: sets `draft` to a new name in the same directory.
beside() {
	case $1 in
	*/*) draft=${1%/*}/ ;;
	*) draft=./ ;;
	esac
	draft=$draft.ossh-$d
}

stat_() { stat -c "$m$record" "$@"; }

# below PATH OPTIONS...: records of what is below a directory, and then of what the links among it lead to.
below() {
	top=$1
	shift
	printf '%s tree %s\0' "$m" "$top"
	find "$top/" -mindepth 1 "$@" -print0 | xargs -0 -r stat -c "$m$record" 2>/dev/null
	printf '%s links\n' "$m"
	find "$top/" -mindepth 1 "$@" -type l -print0 2>/dev/null | xargs -0 -r stat -L -c "$m$record" 2>/dev/null
	:
}

scan() {
	# its own words tell why it cannot be read
	[ -d "$1" ] || find "$1/" -maxdepth 0
	[ -x "$1" ] || fail EACCES
	below "$1" -maxdepth 1
}

# links are followed to the start only
scan_all() {
	[ -d "$1" ] || { find "$1/" -maxdepth 0; exit 1; }
	[ -r "$1" ] && [ -x "$1" ] || fail EACCES
	below "$1" 2>/dev/null
	unreadable "$1"
}

names() { find "$1/" -mindepth 1 -maxdepth 1 -print0; }

# unreadable PATH: directories whose content is not to be had.
unreadable() {
	printf '%s unreadable\n' "$m"
	find "$1/" -type d -print0 2>/dev/null | xargs -0 -r sh -c 'for d; do [ -r "$d" ] && [ -x "$d" ] || printf "%s\0" "$d"; done' sh
}

# matching WORDS...: those that are there, of what a pattern was expanded to.
matching() {
	for p; do
		there "$p" && printf '%s\0' "$p"
	done
	:
}

# trees WORDS...: what is below the directories that a pattern was expanded to.
trees() {
	for p; do
		[ -d "$p" ] && below "$p"
	done
	:
}

# of NUL-separated paths on stdin: those that are there, or those that are missing
present() { xargs -0 -r sh -c 'for p; do [ -e "$p" ] || [ -L "$p" ] && printf "%s\0" "$p"; done; :' sh; }
missing() { xargs -0 -r sh -c 'for p; do [ -e "$p" ] || [ -L "$p" ] || printf "%s\0" "$p"; done; :' sh; }

directory() {
	# mkdir MODE PATH
	if [ "$1" = 777 ]; then mkdir "$2"; else mkdir -m "$(limited "$1")" "$2"; fi
}

mkdir_() {
	# mode, parents, exist_ok, path
	if [ -d "$4" ]; then
		[ "$3" ] || fail EEXIST
		return 0
	fi
	if [ "$2" ]; then
		up=${4%/*}
		[ "$up" = "$4" ] || [ -z "$up" ] || mkdir -p "$up" || exit
	fi
	directory "$1" "$4" && return
	# another one may have been faster
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
	case $(cd -- "$1" && pwd -P) in
	/ | "$(cd && pwd -P)") fail EPERM ;;
	esac
	rm -rf -- "$1"
}

rename() {
	stat -c %d "$1" >/dev/null || exit
	if [ "$1" -ef "$2" ] && [ ! -L "$1" ] && [ ! -L "$2" ]; then
		# rename(2) does nothing for two names of one file
		exit 0
	fi
	if [ -d "$2" ] && [ ! -L "$2" ]; then
		[ -d "$1" ] && [ ! -L "$1" ] || fail EISDIR
	elif there "$2"; then
		[ ! -d "$1" ] || [ -L "$1" ] || fail ENOTDIR
	fi
	case ${2%/} in
	*/*) up=${2%/}; up=${up%/*}/ ;;
	*) up=. ;;
	esac
	from=$(stat -c %d "$1") && to=$(stat -L -c %d "$up") || exit
	[ "$from" = "$to" ] || fail EXDEV
	mv -f -T "$1" "$2"
}

symlink() {
	there "$2" && fail EEXIST
	ln -s -- "$1" "$2"
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
	while ! found=$(real "$path"); do
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
	if there "$3"; then
		[ "$2" ] || fail EEXIST
	else
		umask "$(printf '%o' $((0777 & ~0$1 | 0$umask_)))"
	fi
	touch "$3"
}

# target PATH: sets `target` to what writing to a path replaces.
target() {
	case $1 in */) fail EISDIR ;; esac
	target=$1
	if [ -L "$1" ]; then
		target=$(real "$1") || { stat -L "$1" >/dev/null; exit 1; }
		target=${target%.}
	fi
	[ ! -d "$target" ] || fail EISDIR
	! there "$target" || [ -w "$target" ] || fail EACCES
}

# keep SIZE: stdin into `draft`, all of it or nothing.
keep() {
	cat >"$draft" && [ "$(wc -c <"$draft")" -eq "$1" ] && return
	rm -f "$draft"
	exit 1
}

write() {
	# size, mode, exist_ok, path
	target "$4"
	[ "$3" ] || ! there "$target" || fail EEXIST
	if [ -e "$target" ] && [ ! -f "$target" ]; then
		cat >"$target"
		exit
	fi
	beside "$target"
	(keep "$1") || exit
	if [ -f "$target" ]; then
		chmod "$(stat -c %a "$target")" "$draft"
	elif [ "$2" != 666 ]; then
		chmod "$(limited "$2")" "$draft"
	fi && mv -f -T "$draft" "$target" && exit
	rm -f "$draft"
	exit 1
}

append() {
	target "$2"
	beside "$target"
	(keep "$1") || exit
	cat "$draft" >>"$target"
	status=$?
	rm -f "$draft"
	exit $status
}

truncate_() {
	[ -e "$2" ] || { stat -L "$2" >/dev/null; exit 1; }
	[ ! -d "$2" ] || fail EISDIR
	[ -w "$2" ] || fail EACCES
	truncate -c -s "$1" "$2"
}

read_() {
	[ ! -d "$1" ] || fail EISDIR
	cat "$1"
}

part() {
	# head or tail, -n or -c, how much, path
	[ ! -d "$4" ] || fail EISDIR
	"$1" "$2" "$3" "$4"
}

checksum() {
	[ ! -d "$2" ] || fail EISDIR
	"$1" "$2"
}

size() {
	there "$1" || { stat "$1" >/dev/null; exit 1; }
	find "$1" -type f -print0 | xargs -0 -r stat -c %s | awk '{ s += $1 } END { printf "%.0f", s }'
}

# copy_ OPTIONS SOURCE DESTINATION NAME: as `cp -r`; what is new appears under its name when it is complete.
copy_() {
	case $1 in
	*L*) stat -L "$2" >/dev/null || exit ;;
	*) stat "$2" >/dev/null || exit ;;
	esac
	to=$3
	if [ -d "$to" ]; then
		case $to in */) to=$to$4 ;; *) to=$to/$4 ;; esac
		[ "$4" ] || fail EINVAL
	fi
	if [ -d "$2" ] && { [ ! -L "$2" ] || case $1 in *L*) ;; *) false ;; esac; }; then
		there "$to" && [ ! -d "$to" ] && fail ENOTDIR
		# into itself?
		inner=$(real "${to%/}") && outer=$(real "$2") || { stat -L "$to" >/dev/null; exit 1; }
		case $inner in "${outer%.}"/* | "$outer") fail EINVAL ;; esac
		if [ -d "$to" ]; then
			cp "$1" "$2/." "$to"
			exit
		fi
		to=${to%/}
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
	if cp "$1" "$2" "$draft" && { [ ! -f "$to" ] || [ "${1#*p}" != "$1" ] || [ -L "$draft" ] || chmod "$(stat -c %a "$to")" "$draft"; } && mv -f -T "$draft" "$to"; then
		exit 0
	fi
	rm -rf "$draft"
	exit 1
}
