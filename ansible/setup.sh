# Sourced by ./demo and ./check, from the root of the project, as root. Makes this machine and .venv ready,
# one line for each step, and does nothing when they are.

export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_RETRIES=10
export ANSIBLE_CONFIG="$PWD/ansible/ansible.cfg"

# step WORDS COMMAND…: run the command; show what it printed only if it fails, and then give up.
step() {
    step_words=$1 step_log=$(mktemp) step_start=$(date +%s)
    shift
    if "$@" >"$step_log" 2>&1 </dev/null; then
        printf '  ok    %-44s %4d s\n' "$step_words" $(($(date +%s) - step_start))
        rm -f "$step_log"
    else
        printf '  FAIL  %s\n\n' "$step_words: $*" >&2
        tail -n 60 "$step_log" >&2
        printf '\nThe whole output is in %s\n' "$step_log" >&2
        exit 1
    fi
}

# setup [dev]: the whole of it; with dev, also what the tests need.
setup() {
    setup_dev=${1-}
    setup_stamp=.venv/.ready${setup_dev:+-$setup_dev}
    if ready; then
        return
    fi
    echo "Making this machine ready:"
    step "package lists" retry apt-get -qq update
    step "Python and its bindings for apt" retry apt-get -qq install --no-install-recommends \
        python3-venv python3-apt ca-certificates
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "hybrid needs Python 3.11 or newer (Debian 12, Ubuntu 24.04); this is $(/usr/bin/python3 -V)" >&2
        exit 1
    }
    step ".venv" virtual_environment
    step "ansible-core" retry .venv/bin/pip install -q 'ansible-core>=2.15'
    step "role host: packages and users" .venv/bin/ansible-playbook ansible/host.yml \
        -e "host_development=$([ -n "$setup_dev" ] && echo true || echo false)"
    step "hybrid and its libraries" retry .venv/bin/pip install -q -e ".${setup_dev:+[$setup_dev]}"
    fingerprint | tee .venv/.ready >"$setup_stamp"
}

# Whether setup has nothing to do: its inputs are as they were, and what it installed is still there.
ready() {
    [ "$(cat "$setup_stamp" 2>/dev/null)" = "$(fingerprint)" ] && installed && getent passwd libvirt-qemu &&
        .venv/bin/pip check && .venv/bin/python -c "import hybrid${setup_dev:+, mypy, pytest}"
} >/dev/null 2>&1

fingerprint() {
    { /usr/bin/python3 -V; pwd; cat pyproject.toml; find ansible -type f | sort | xargs cat; } | sha256sum
}

# Whether every package that the role names is installed; those for development only when asked for.
installed() {
    packages=$(awk -v dev="$setup_dev" '/^host_development/ && !dev { exit } /^  - / { print $2 }' \
        ansible/roles/host/vars/Debian.yml)
    # shellcheck disable=SC2086
    [ "$(dpkg-query -W -f '${db:Status-Status}\n' $packages | grep -cx installed)" = "$(echo "$packages" | wc -l)" ]
}

virtual_environment() {
    [ -x .venv/bin/pip ] && .venv/bin/python -c 'import sys; sys.exit(sys.base_prefix != "/usr")' ||
        /usr/bin/python3 -m venv --clear .venv
}

# retry COMMAND…: networks fail now and then.
retry() {
    for pause in 5 15 45; do
        "$@" && return
        sleep "$pause"
    done
    "$@"
}
