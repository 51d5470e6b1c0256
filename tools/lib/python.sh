# Sourced by the tools that are written in Python, so that they also start on a machine that has none yet.
# Only /usr/bin/python3 will do: Debian's python3-rados belongs to it.

run_python() {
    program=$1
    shift
    lib=$(dirname "$(readlink -f "$0")")/lib
    if [ ! -x /usr/bin/python3 ]; then
        install_python "$program" "$@"
    fi
    # -B: no byte code beside the sources; -E -s: nothing of the caller's Python environment.
    exec /usr/bin/python3 -B -E -s "$lib/$program.py" "$@"
}

# `demo`, `check` and `--install` may install packages; every other command only says what is missing.
install_python() {
    may_install=no
    if [ "$1" = check ]; then may_install=yes; fi
    for word in "$@"; do
        case $word in
            demo | --install) may_install=yes ;;
        esac
    done
    if [ $may_install = no ]; then
        echo "tools/$1: needs /usr/bin/python3. Install it with: apt-get install --yes --no-install-recommends python3" >&2
        exit 1
    fi
    as_root=
    if [ "$(id -u)" -ne 0 ]; then as_root=sudo; fi
    echo "tools/$1: installs python3" >&2
    install="$as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get"
    options="-o DPkg::Lock::Timeout=300 --yes --no-install-recommends --quiet"
    if ! $install install $options python3 >&2 </dev/null; then
        $install update --quiet >&2 </dev/null
        $install install $options python3 >&2 </dev/null
    fi
}
