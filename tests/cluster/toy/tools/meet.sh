# NAME N OUT: note the run in $TOY_RUNS, then wait until N stages of this kind (part@...) have started.
echo "$1" >> "$TOY_RUNS"
while [ "$(grep -c "^${1%@*}" "$TOY_RUNS")" -lt "$2" ]; do sleep 0.1; done
mkdir -p "$(dirname "$3")" && echo "$1" > "$3"
