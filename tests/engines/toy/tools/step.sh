# NAME PARAMETER OUT INPUT...: note the run in $TOY_RUNS, then write the parameter's line and the inputs to OUT.
# $TOY_FAIL, $TOY_KILL and $TOY_HANG name a stage that fails, dies or waits after half of its output is written.
name=$1 parameter=$2 out=$3
shift 3
echo "$name" >> "$TOY_RUNS"
mkdir -p "$(dirname "$out")"
echo half > "$out"
if [ "$TOY_FAIL" = "$name" ]; then exit 1; fi
if [ "$TOY_KILL" = "$name" ]; then kill -9 $$; fi
while [ "$TOY_HANG" = "$name" ] && [ ! -e "$TOY_RUNS.go" ]; do sleep 0.1; done
# With $TOY_MEET=N every student waits until N of them run at once.
while [ -n "$TOY_MEET" ] && [ "${name#student}" != "$name" ] && [ "$(grep -c ^student "$TOY_RUNS")" -lt "$TOY_MEET" ]; do sleep 0.1; done
{ grep "^$parameter:" params.yaml; cat "$@"; } > "$out"
