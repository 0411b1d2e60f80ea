"""Hostile files of parameters: the valid one of the built-in suite with one thing changed, by kind and name."""

from collections.abc import Iterator

INF, BEYOND = float("inf"), 2**63
NAMES = [
    "-x", "--help", "", "a b", "a/b", "..", "../x", "a=b", "[x]", "a\nb", "$(touch x)", "`touch x`", "x;y", "a_b", "\\textbf{x}", "ä", "%s",
    "${item}", "Sfd", "sfd-", "a--b", "x" * 300, "teacher", "nan", "data", "3d", "size", "nfiles",
]  # fmt: skip
PLACES = [
    "/home/alice", "~/images", "C:\\images", "C:/images", "s3://user:password@bucket/x", "HTTPS://example.org/x", "git+ssh://host/x",
    "user:pw@host:x", "host:x", "file:///x", "//host/share", "\\\\host\\share", "-rf", "", "a\nb", "x" * 5000,
]  # fmt: skip
WRITTEN = [
    ".", "..", "../..", "data", "data/raw", "data/raw/x", "./data/teacher", "results", "a/../results/x", "reports/tables",
    "data//inception",
]  # fmt: skip
DOUBTFUL = [
    "1e5", "1e-5", "5E-3", "1.0e5", "020", "09", "0o17", "0x10", "0b11", "1_000", "1:30", "190:20:30.15", "yes", "on", "y", "2026-01-01",
    ".inf", "-.inf", ".nan", "1e400", "9" * 5000, "0." + "1" * 5000, "!!int 3", "! 3", "=", "<<", "'3'", "3.0.0", "- 3",
]  # fmt: skip
SCORE = "score_distillation.disback"
TRAJECTORY = "trajectory_distillation.sfd"
SAMPLER = "teacher_samples.samplers.euler"


def values() -> Iterator[tuple[str, str, object]]:
    """(kind, key, value): what is put in the place of the value at the dotted key; a key that is not there is added."""
    betas = ([0.9, 1.0], [-0.1, 0.9], [0.9], [0.9, 0.9, 0.9], [0.9, "0.9"], 0.9)
    yield from (("betas", "teacher.optimiser.betas", value) for value in betas)
    for key in (f"{TRAJECTORY}.num_steps", "students.sfd-v.num_steps", f"{SAMPLER}.num_steps"):
        yield from (("num_steps", key, value) for value in ([0], [1], [-3], [4, 4], [], [10**12], [4.0], 4, ["4"], [True]))
    numbers = ("teacher.optimiser.lr", "teacher.noise.mean", f"{SCORE}.sigma_init", "teacher_samples.samplers.heun.schedule.t_min")
    yield from (("not finite", key, value) for key in numbers for value in (INF, -INF, float("nan")))
    yield from (("beyond 2^63", key, BEYOND) for key in ("teacher.steps", "teacher.seed", f"{SCORE}.updates", f"{TRAJECTORY}.rounds"))
    yield from (("beyond 2^63", key, [BEYOND]) for key in ("seeds", f"{TRAJECTORY}.num_steps", f"{SAMPLER}.num_steps"))
    yield "not finite", "teacher.optimiser.betas", [INF, 0.9]
    yield from (("seeds", "seeds", value) for value in ([-1], [0, 0], [], [0.5], ["0"], ["$(touch x)"], None, [[0]], [True]))
    yield from (("threads", key, 10**6) for key in ("runtime.threads", "resources.train.threads", "resources.light.gpus"))
    yield from (("duplicates", key, [value, value]) for key, value in (
        ("metrics.extractors", "classifier"), ("metrics.metrics", "fd"), ("mismatch.sigmas", 0.5),
        ("report.sample_solvers", "heun/nfe34"), (f"{SCORE}.snapshots", 4), ("students.sfd.guidance", 1.5),
    ))  # fmt: skip
    yield from (("report", key, value) for key, value in (
        ("report.sample_solvers", ["ddim/nfe2"]), ("report.sample_solvers", ["heun/nfe33"]), ("report.sample_solvers", ["../x/nfe2"]),
        ("report.metric", "fd_inception"), ("report.metric", "recall_classifier"), ("report.metric", "fd"),
        ("teacher_samples.reference", "ddim"), ("report.title", "two\nlines"), ("report.title", ""), ("report.title", "x" * 1000),
        ("report.title", "\x1b[31mred"), ("metrics.metrics", ["is"]), ("report.axes", {"a": {"label": "a", "shows": "b", "baseline": "c"}}),
    ))  # fmt: skip
    yield from (("names", "suite", name) for name in NAMES)
    for section in ("score_distillation", "teacher_samples.samplers", "students", "resources"):
        yield from (("names", section, name) for name in NAMES)  # added to the section, as a copy of another entry
    yield from (("addresses", "data.local", place) for place in PLACES)
    yield from (("addresses", "metrics.inception.local", place) for place in ("${suite}", "a\\b", "{x}", "$HOME"))
    yield from (("places of stages", "teacher.local", place) for place in WRITTEN)
    yield from (("bounds", key, value) for value in (10**12, 2**62) for key in (
        "teacher.steps", "teacher.batch", f"{SCORE}.batch", f"{SCORE}.fake_per_student", f"{TRAJECTORY}.pool", "metrics.n_samples",
        "metrics.batch_size", "mismatch.n_samples", "classifier.n_steps",
    ))  # fmt: skip
    yield from (("bounds", key, value) for value in (1e300, 1e39, 5e-324, -1e300) for key in (
        "teacher.optimiser.lr", "teacher.optimiser.eps", "teacher.average.half_life", f"{SCORE}.sigma_init", f"{SCORE}.noise_fake.std",
        f"{SAMPLER}.schedule.rho", f"{SAMPLER}.schedule.t_max", f"{SAMPLER}.schedule.t_min", "classifier.learning_rate",
    ))  # fmt: skip
    yield from (("sections", key, value) for key, value in (
        ("seeds", list(range(1000))), ("resources", {}), ("metrics.k_density", 1000), ("metrics.k_precision", 10**6),
        ("code", "../../elsewhere"), ("vars", []), ("item", {}),
    ))  # fmt: skip
    yield from (("sizes", key, value) for key, value in (
        ("teacher.net.blocks", 10**9), ("teacher.net.channels", [2**40]), ("teacher.net.resolution", 10**9), ("data.resolution", 0),
        ("teacher.net.channels", [8] * 10_000), ("teacher.net.attention_levels", [1, 1]), ("classifier.width", 10**9),
    ))  # fmt: skip


def texts(valid: str) -> Iterator[tuple[str, str | bytes]]:
    """(kind, content): what the file holds instead."""
    line = "  steps: 1200\n"
    yield from (("doubtful numbers", valid.replace(line, f"  steps: {plain}\n")) for plain in DOUBTFUL)
    for word in ("yes", "off", "'true'", "1", "y"):
        yield "doubtful numbers", valid.replace("  threads: 1", f"  threads: 1\n  compile: {word}", 1)
    for word in ("yes", "Off", "N", "1:30", "-1:30:20", "1:30.5"):  # where text is meant
        yield "two readings", valid.replace("title: ", f"title: {word} # ")
    ours, between, theirs = (sign * 7 for sign in "<=>")
    yield "merge conflict", valid.replace(line, f"{ours} HEAD\n{line}{between}\n  steps: 600\n{theirs} other\n")
    yield "merge conflict", valid.replace(line, f"{between}\n{line}")
    for added in ("steps: 600", "steps: 1200", "'steps': 1", '"st\\x65ps": 1'):
        yield "twice", valid.replace(line, f"{line}  {added}\n")
    yield "twice", f"{valid}\nteacher: {{}}\n"
    for added in ("1: x", "null: x", "[a]: x", "? {a: b}\n  : x", "1.5: x", "<<: {steps: 3}", "'<<': {steps: 3}", "stepz: 3", "yes: x"):
        yield "keys", valid.replace(line, f"{line}  {added}\n")
    yield "keys", "\n".join([valid, *(f"k{i}: 1" for i in range(10_000))])
    for changed in ("  steps: &a 1200\n", "  steps: &a 1200\n  batch: *a\n", f"{line}  <<: *a\n", "  steps: *a\n"):
        yield "anchors", valid.replace(line, changed)
    tens = [", ".join([f"*a{i}"] * 10) for i in range(30)]
    yield "anchors", "\n".join(["a0: &a0 [ha, ha]", *(f"a{i + 1}: &a{i + 1} [{ten}]" for i, ten in enumerate(tens)), valid])
    yield "anchors", "\n".join(["a0: &a0 {a: 1}", *(f"a{i + 1}: &a{i + 1} {{<<: [{ten}]}}" for i, ten in enumerate(tens)), valid])
    yield "anchors", f"a: &a [*a]\n{valid}"
    for deep in ("[" * 100_000, "{a: " * 25_000, "- " * 50_000, "? " * 50_000, "[" * 50_000 + "]" * 50_000, "{" * 100_000):
        yield "deep", f"{valid}\nx:\n  {deep}\n"
    yield "deep", "".join(f"{' ' * i}a:\n" for i in range(400))
    yield "larger", valid + "# comment\n" * 10**6
    yield "larger", "\n" * 10**7
    yield "sizes", f"{valid}\nx: [{'1,' * 60_000}1]\n"
    yield "sizes", f"{valid}\nx: '{'x' * 120_000}'\n"
    yield "sizes", valid.replace("[0, 1, 2]", f"[{'a,' * 60_000}a]")
    for unreadable in (valid.encode("utf-16"), valid.encode("utf-32"), b"\xff", b"\x1f\x8b\x08", b"# \xed\xa0\x80", b"\x89PNG\r\n\x1a\n"):
        yield "encodings", unreadable + valid.encode()
    yield "encodings", valid.replace("# The", "# Gr\xf6\xdfe", 1).encode("latin-1")
    for character in ("\x00", "\x07", "\x1b[2J", "\x85", "\u2028"):
        yield "control character", f"{valid}\n# {character}\n"
    yield "tab", valid.replace("  threads: 1", "  threads:\t1", 1)
    for escape in ("\\ud800", "\\u202e", "\\0", "\\n"):
        yield "sections", valid.replace("title: ", f'title: "a{escape}b" # ')
    empty = ("", "# nothing\n", "- 1\n", "text\n", "null\n", "---\n...\n", "{}\n", "{suite: x}", "3")
    broken = ("{", "a: b: c\n", "a: [1\n", "'", "\t\n", "%FOO\n---\na: 1\n", "*a\n", "!!python/object/apply:os.system ['touch x']\n")
    yield from (("no parameters", content) for content in (*empty, *broken, f"%YAML 1.1\n---\n{valid}", f"{valid}\n---\na: 1\n"))
    for section in ("suite", "seeds", "runtime", "resources", "data", "teacher", "start", "students", "metrics", "report"):
        for value in ("3", "[]", "null", "{text: text}"):
            yield "sections", f"{valid.replace(f'{chr(10)}{section}:', f'{chr(10)}was_{section}:', 1)}\n{section}: {value}\n"
