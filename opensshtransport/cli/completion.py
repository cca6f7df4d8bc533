"""`ossh completion SHELL`: completion of commands, options, hosts and remote paths.

A shell loads a few lines, which call `ossh complete WORD...` at each TAB; so only this module knows what may
follow, and it reads that from the parsers.

The traps: nothing here logs in, so remote paths are offered only while a master is running. bash splits words
at colons and replaces only what follows the last one. And a TAB must never print an error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import posixpath
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from opensshtransport.cli.command_table import SUMMARIES, parser_of
from opensshtransport.errors import OpenSshTransportError, SettingsError
from opensshtransport.master.control_socket import listens
from opensshtransport.master.master import Master
from opensshtransport.openssh import destination, ssh_config
from opensshtransport.openssh.notation import split_place

# The line that asks the shell to add local files.
FILES = ":files"

_DEADLINE = 5.0

_BASH = r"""
_ossh() {
    local rest=${COMP_LINE:0:COMP_POINT} words=() last=-1 i word line files='' nospace='' cut=''
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        # what bash has parted at a colon has no blank before it
        if ((i > 0)) && [[ $rest != [[:space:]]* && -n $word ]]; then
            words[last]+=$word
        else
            words[++last]=$word
        fi
        rest=${rest#"${rest%%[![:space:]]*}"}
        rest=${rest#"$word"}
    done
    word=${words[last]}
    line=${COMP_WORDS[COMP_CWORD]}
    # of a word that was parted only the last part is replaced
    if [[ $line == : ]]; then cut=$word; else cut=${word%"$line"}; fi
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
        :files) files=yes; continue ;;
        */ | *:) nospace=yes ;;
        esac
        COMPREPLY+=("$(printf %q "${line#"${cut//\\/}"}")")
    done < <(command ossh complete -- "${words[@]}" 2>/dev/null)
    # quoted by ourselves: bash would quote the colon too, and then not know the word again
    [[ -z $files ]] || while IFS= read -r line; do
        [[ ! -d $line ]] || { line=$line/; nospace=yes; }
        COMPREPLY+=("$(printf %q "$line")")
    done < <(compgen -f -- "$word")
    [[ -z $nospace ]] || compopt -o nospace 2>/dev/null
}
complete -F _ossh ossh ossh-run
"""

_ZSH = r"""
#compdef ossh ossh-run
_ossh() {
    local line files
    for line in "${(@f)$(command ossh complete -- "${(@)words[1,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            '') ;;
            :files) files=yes ;;
            */ | *:) compadd -S '' -- "$line" ;;
            *) compadd -- "$line" ;;
        esac
    done
    [[ -z $files ]] || _files
}
if [[ ${funcstack[1]} == _ossh ]]; then
    _ossh "$@"
else
    # where nothing has set completion up yet; -i: no question about directories that others can write to
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i; }
    compdef _ossh ossh ossh-run
fi
"""

_FISH = r"""
function __ossh_complete
    set -l current (commandline -ct)
    for line in (command ossh complete -- (commandline -opc) "$current" 2>/dev/null)
        if test "$line" = :files
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c ossh -f -a '(__ossh_complete)'
complete -c ossh-run -f -a '(__ossh_complete)'
"""

_SCRIPTS = {"bash": _BASH.lstrip(), "zsh": _ZSH.lstrip(), "fish": _FISH.lstrip()}


EXAMPLE = 'eval "$(ossh completion bash)"'


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `ossh completion` takes."""
    parser.add_argument("shell", choices=tuple(_SCRIPTS))


def run(arguments: argparse.Namespace) -> int:
    """Print what the shell loads."""
    print(_SCRIPTS[arguments.shell], end="")
    return 0


def candidates(words: Sequence[str]) -> list[str]:
    """The candidates for the last word.

    Args:
        words: the command line up to the cursor, as typed; the last word may be empty.

    Returns:
        Whole words; `FILES` among them means local files.
    """
    typed = [_unquoted(word) for word in words]
    current = typed[-1]
    found = [word for word in _possible(typed) if word == FILES or word.startswith(current)]
    return list(dict.fromkeys(found))


def _unquoted(word: str) -> str:
    """A word as the shell will read it; a quote may still be open."""
    for end in ("", '"', "'"):
        with contextlib.suppress(ValueError):
            return "".join(shlex.split(word + end))
    return word


def _possible(words: list[str]) -> Iterator[str]:
    program, *given, current = words
    if Path(program).name == "ossh-run":
        given.insert(0, "run")
    if not given:
        yield from SUMMARIES
        yield from ("--help", "--version")
        return
    if given[0] not in SUMMARIES:
        return
    chosen = parser_of(given[0])
    options = {text: action for action in chosen._actions for text in action.option_strings}
    places = [action for action in chosen._actions if not action.option_strings]
    config: str | None = None
    number, waiting, ended = 0, None, False
    for word in given[1:]:
        if waiting is not None:
            config = word if "-F" in waiting.option_strings else config
            waiting = None
        elif word.startswith("-") and word != "-" and not ended:
            ended = word == "--"
            action = options.get(word)
            waiting = action if action is not None and action.nargs != 0 else None
        else:
            number += 1
            # what follows the first word of a command is that command's own
            ended = ended or any(place.nargs == argparse.REMAINDER for place in places[: number + 1])
    if waiting is not None:
        yield from _values(waiting, current, config)
        return
    if current.startswith("-") and not ended:
        yield from (text for text, action in options.items() if action.help != argparse.SUPPRESS)
        return
    place = places[min(number, len(places) - 1)] if places else None
    many = place is not None and place.nargs in {"*", "+"}
    if place is not None and (number < len(places) or many):
        yield from _values(place, current, config)


def _values(action: argparse.Action, current: str, config: str | None) -> Iterator[str]:
    """The values of an option or an operand, from its choices or its name in the help."""
    if action.choices is not None:
        yield from map(str, action.choices)
    name = action.metavar if isinstance(action.metavar, str) else ""
    file = None if config is None else Path(config).expanduser().absolute()
    if name in {"CONFIG", "FILE"}:
        yield FILES
    elif name == "TOPIC":
        from opensshtransport.cli.help import TOPICS

        yield from (topic for topics in TOPICS.values() for topic in topics)
    elif name in {"HOST", "HOP"}:
        yield from ssh_config.names(file)
    elif name in {"SRC", "DST"}:
        try:
            host, path = split_place(current)
        except SettingsError:
            # not yet a name
            host, path = None, current
        if host is not None and "://" in current and current.count("/") < 3:
            yield f"{current}/"
        elif host is not None:
            above = current.removesuffix(path)
            yield from (f"{above}{each}" for each in remote_paths(host, path, file))
        else:
            yield FILES
            yield from (f"{each}:" for each in ssh_config.names(file))


def remote_paths(host: str, path: str, config: Path | None) -> list[str]:
    """The paths with this beginning on a host with a live master; directories end in a slash."""
    above, begin = posixpath.split(path)
    try:
        master = Master(destination.resolve(host, config))
        facts = master.facts()
        if facts is None or not listens(Path(facts.socket)):
            return []
        # relative paths begin at the home directory, and `~` is not expanded there
        from opensshtransport.transport import Transport

        top = above.removeprefix("~").lstrip("/") if above == "~" or above.startswith("~/") else above
        with Transport(host, ssh_config=config, login=False, person=False, timeout=_DEADLINE) as transport:
            entries = transport.scandir(top or ".")
            return sorted(
                os.path.join(above, entry.name) + ("/" if entry.is_dir() else "")  # noqa: PTH118 - no local path
                for entry in entries
                if entry.name.startswith(begin) and (begin.startswith(".") or not entry.name.startswith("."))
            )
    except (OpenSshTransportError, OSError):
        return []
