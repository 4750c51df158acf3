# What the scripts here share. Sourced, not run.
# shellcheck shell=bash

say() { printf '\n== %s\n' "$*"; }

# retry WHAT COMMAND…: for what fails when a network does; four times, with more and more time in
# between.
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

# python_tools VENV PACKAGE…: a virtual environment with these packages in it. uv fetches and unpacks
# them at once; pip took minutes for checkov alone.
python_tools() {
    local venv=$1
    shift
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    retry 'Installing uv' "$venv/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.9
    retry "Installing $1 and others" \
        "$venv/bin/uv" pip install --quiet --no-cache --system-certs --python "$venv/bin/python" "$@"
}

# The steps of a script, what each cost, and which failed. With names on the command line only the
# steps run whose headings hold one of them: `steps "$@"` before the first, `finish` after the last.
chosen=()
costs=()
failed=()
steps() {
    chosen=("$@")
    trap say_costs EXIT
}

is_chosen() {
    local name
    ((${#chosen[@]} > 0)) || return 0
    for name in "${chosen[@]}"; do [[ $1 != *"$name"* ]] || return 0; done
    return 1
}

# step WHAT COMMAND…: one step, with its heading and what it took. A failure is noted, and the other
# steps run all the same.
step() {
    local what=$1 status took
    shift
    is_chosen "$what" || return 0
    say "$what"
    took=$(mktemp)
    set +e
    # What the step says goes where it went before; only what it took goes to the file.
    {
        TIMEFORMAT='%0R %0U %0S'
        time { (
            set -e
            "$@"
        ) 2>&3; }
    } 3>&2 2>"$took"
    status=$?
    set -e
    ((status == 0)) || failed+=("$what")
    costs+=("$(tail -n 1 "$took") $what$( ((status == 0)) || printf ': FAILED')")
    rm -f "$took"
}

say_costs() {
    local status=$? cost seconds user system what
    say 'seconds, and of all processors'
    for cost in ${costs[@]+"${costs[@]}"}; do
        read -r seconds user system what <<<"$cost"
        printf '%6d %6d  %s\n' "$seconds" "$((user + system))" "$what"
    done
    printf '%6d         in all\n' "$SECONDS"
    exit "$status"
}

finish() {
    ((${#costs[@]} > 0)) || fail "no step is called ${chosen[*]}"
    if ((${#failed[@]} > 0)); then
        say 'failed'
        printf '%s\n' "${failed[@]}"
        exit 1
    fi
    say 'everything held'
}

fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# What runs beside a script, with a folder for its logs. All of it is ended when the script ends.
started=()
work=
with_servers() {
    work=$(mktemp -d)
    trap end_servers EXIT
}

end_servers() {
    local status=$? pid log
    for pid in ${started[@]+"${started[@]}"}; do kill "$pid" 2>/dev/null || true; done
    for pid in ${started[@]+"${started[@]}"}; do wait "$pid" 2>/dev/null || true; done
    if ((status != 0)); then
        for log in "$work"/*.log; do [[ -s $log ]] && { say "the end of $(basename "$log")"; tail -n 30 "$log"; }; done
    fi
    rm -rf "$work"
    exit "$status"
}

# begin NAME COMMAND…: runs it beside the script, its output in NAME.out, its errors in NAME.log
begin() {
    local name=$1
    shift
    "$@" </dev/null >"$work/$name.out" 2>"$work/$name.log" &
    started+=("$!")
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# ready URL PID: waits until something answers there, a minute at most, and no longer than the
# process lives
ready() {
    python3 - "$1" "$2" <<'PY' || fail "$1 does not answer"
import os, sys, time, urllib.error, urllib.request
url, pid = sys.argv[1], int(sys.argv[2])
end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        urllib.request.urlopen(url, timeout=5).close()
        sys.exit(0)
    except urllib.error.HTTPError:
        sys.exit(0)
    except OSError:
        os.kill(pid, 0)
        time.sleep(0.1)
sys.exit(1)
PY
}

# Nothing of the machine's own AWS settings.
without_aws_settings() {
    export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_DEFAULT_REGION=us-east-1 AWS_PAGER='' AWS_EC2_METADATA_DISABLED=true
    unset AWS_PROFILE AWS_SESSION_TOKEN AWS_ENDPOINT_URL
    export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
}
