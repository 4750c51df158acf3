# What the scripts here share. Sourced, not run.
# shellcheck shell=bash

say() { printf '\n== %s\n' "$*"; }

# retry WHAT COMMAND…: for what fails when a network does; four times, with more and more time in between.
retry() {
    local what=$1 pause
    shift
    for pause in 5 15 45; do
        "$@" && return
        printf '%s failed; is the network there? Again in %s s.\n' "$what" "$pause" >&2
        sleep "$pause"
    done
    "$@" && return
    printf '%s failed four times. Without these packages nothing was checked: this says nothing about the code.\n' "$what" >&2
    return 1
}

# python_tools VENV PACKAGE…: a virtual environment with these packages in it.
python_tools() {
    local venv=$1
    shift
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    retry "Installing $1 and others with pip" \
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
}
