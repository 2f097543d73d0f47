# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash

# Completion of the command minicloud.
_minicloud() {
    local word=${COMP_WORDS[COMP_CWORD]} words
    if [ "$COMP_CWORD" -eq 1 ]; then
        words=$(minicloud --help 2>/dev/null)
        words=${words##*: }
        words=${words//[,.]/}
    elif [[ $word == -* ]]; then
        words=$(minicloud --options "${COMP_WORDS[1]}" 2>/dev/null)
    else
        case ${COMP_WORDS[1]} in
            launch | find | up | down | purge | networks | version | get | set) words= ;;
            *) words=$(minicloud --names 2>/dev/null) ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -F _minicloud minicloud
