# What stands in for commands of the docs in tests/broker/test_doc_commands.py, and why.
#
# From the test: CHECKOUT and VENV, folders; PYTHON_OF_TEST, a program; STREAM_APP_BROKERS and
# STREAM_APP_METRICS_PORT, as a reader has them.

declare -a RUNNING=()
trap 'code=$?; trap - EXIT; stop_all || true; exit $code' EXIT

# Runs something until the page's end, or until the reader stops the worker.
keep_running() {
    "$@" &
    RUNNING+=($!)
}

# Ends what runs in the background. What has ended by itself must have ended well.
stop_all() {
    local pid failed=0
    for pid in "${RUNNING[@]}"; do
        if kill -0 "$pid" 2> /dev/null; then
            pkill_children "$pid"
            wait "$pid" || true
        else
            wait "$pid" || failed=$?
        fi
    done
    RUNNING=()
    return $failed
}

# A shell in the background does not pass signals on, so its children get them first.
pkill_children() {
    local child
    for child in $(ps -o pid= --ppid "$1"); do
        kill -TERM "$child" 2> /dev/null || true
    done
    kill -TERM "$1" 2> /dev/null || true
}

# A worker runs until it is stopped: in a reader's terminal, here in the background. Readers see when
# it is ready and when what they produced is done; here it is waited for.
stream-app() {
    case $1 in
        worker)
            keep_running "$VENV/bin/stream-app" "$@"
            helper ready
            ;;
        produce)
            "$VENV/bin/stream-app" "$@"
            if ((${#RUNNING[@]})); then helper settled; fi
            ;;
        watch)
            if [[ " $* " == *" --limit "* ]]; then
                timeout 30 "$VENV/bin/stream-app" "$@"
            else
                # Without a limit it watches until Ctrl-C.
                timeout --signal INT 4 "$VENV/bin/stream-app" "$@" || [[ $? == 124 ]]
            fi
            ;;
        *)
            "$VENV/bin/stream-app" "$@"
            ;;
    esac
}

helper() {
    PYTHONPATH=$CHECKOUT${PYTHONPATH:+:$PYTHONPATH} "$PYTHON_OF_TEST" -m tests.broker.wait "$@"
}

# CI itself is `make test`, and other targets take minutes: here they must exist. Each stands on
# commands that have tests of their own.
make() {
    command make --dry-run --silent --directory "$CHECKOUT" "$@" > /dev/null
}

# Images are not pulled in tests: the file must be valid and have the services that are named.
docker-compose() {
    local services word
    services=$(command docker-compose --file "$CHECKOUT/docker-compose.yml" config --services)
    for word in "$@"; do
        word=${word%%=*}
        case $word in
            up | down | logs | stop | build | exec | -*) ;;
            *) grep --quiet --line-regexp "$word" <<< "$services" ;;
        esac
    done
}

# The environment of the tests has the packages: none is made or filled.
python3() {
    if [[ "$1 $2" == "-m venv" ]]; then
        [[ -e $3 ]] || ln -s "$VENV" "$3"
    else
        "$PYTHON_OF_TEST" "$@"
    fi
}

pip() {
    [[ $1 == install ]]
    helper extras "$2"
}
