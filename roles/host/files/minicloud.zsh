#compdef minicloud
# Copyright (c) 2026 The minicloud.local authors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# Completion of the command minicloud.
local -a words_
if (( CURRENT == 2 )); then
    words_=(${=${${"$(minicloud --help 2>/dev/null)"##*: }//[,.]/}})
    compadd -a words_
elif [[ $PREFIX == -* ]]; then
    words_=(${(f)"$(minicloud --options $words[2] 2>/dev/null)"})
    compadd -a words_
else
    case $words[2] in
        launch|find|up|down|purge|networks|version|get|set) ;;
        *) words_=(${(f)"$(minicloud --names 2>/dev/null)"}); compadd -a words_ ;;
    esac
    _files
fi
