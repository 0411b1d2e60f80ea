"""Where everything lies in a suite's folder. `dvc.yaml` declares the same paths to the engines, and a test holds the two together."""

PIPELINE_FILE, PARAMS_FILE, CODE_FILE, LOCK_FILE = "dvc.yaml", "params.yaml", "code.yaml", "dvc.lock"
RAW, FETCHED_TEACHER, INCEPTION = "data/raw", "data/teacher", "data/inception"
DATASET = "data/dataset.safetensors"
CLASSIFIER, CLASSIFIER_VALUES = "results/classifier/classifier.safetensors", "results/classifier/metrics.json"
TEACHER, TEACHER_LOG, TEACHER_VALUES = "results/teacher/teacher.safetensors", "results/teacher/log.csv", "results/teacher/metrics.json"
RECORDS, CURVES, MISMATCH, PATHS = "results/records", "results/curves", "results/mismatch", "results/paths"
REFERENCE, METRICS, SAMPLES, STATES = "results/reference", "results/metrics", "results/samples", "results/states"
STUDENTS, TRAJECTORIES, PATH_SAMPLES = "results/students", "results/trajectories", "results/path-samples"
FIGURES, TABLES, AXES, PAGE = "reports/figures", "reports/tables", "reports/axes", "reports/index.html"
GATHERED = "results/ledger.json"  # every record's content in one file, which git keeps
FINISHED = "finished"  # beside the resume state of a stage whose result the engine has yet to take over: the md5 of its record
TEACHER_NAME = "teacher"  # stands where a method's name does, for the teacher's own samples, states and metrics


def record(stage: str) -> str:
    """The record of a stage, by its name in DVC."""
    return f"{RECORDS}/{stage}.json"


def reference(extractor: str) -> str:
    """Statistics of the real images in an extractor's features."""
    return f"{REFERENCE}/{extractor}.safetensors"


def reference_values(extractor: str) -> str:
    """What the metrics say of real, noised and blurred images."""
    return f"{REFERENCE}/{extractor}.json"


def of_seed(folder: str, method: str, seed: int | str | None, ending: str = "") -> str:
    """What a method has once for each seed: FOLDER/METHOD/seedN; without a seed, as for the teacher, FOLDER/METHOD."""
    return f"{folder}/{method}{'' if seed is None else f'/seed{seed}'}{ending}"


def path(method: str, seed: int) -> str:
    """The folder of a degradation path."""
    return of_seed(PATHS, method, seed)


def student(method: str, seed: int) -> str:
    """The weights of a student."""
    return of_seed(STUDENTS, method, seed, "/student.safetensors")


def snapshots(method: str, seed: int) -> str:
    """The folder of a one-step student's snapshots."""
    return of_seed(STUDENTS, method, seed, "/snapshots")


def curve(method: str, seed: int) -> str:
    """The training curve of a student."""
    return of_seed(CURVES, method, seed, ".csv")


def mismatch(method: str, seed: int) -> str:
    """The mismatch degree over a student's training."""
    return of_seed(MISMATCH, method, seed, ".csv")


def trajectories(method: str) -> str:
    """The pool of teacher trajectories of a method."""
    return f"{TRAJECTORIES}/{method}.safetensors"


def samples(method: str = TEACHER_NAME, seed: int | None = None) -> str:
    """The archive of a model's images."""
    return of_seed(SAMPLES, method, seed, ".safetensors")


def states(method: str = TEACHER_NAME, seed: int | None = None) -> str:
    """The whole way from noise of a model's first images."""
    return of_seed(STATES, method, seed, ".safetensors")


def metrics(method: str = TEACHER_NAME, seed: int | None = None) -> str:
    """The measured values of a model's images."""
    return of_seed(METRICS, method, seed, ".json")


def path_samples(method: str) -> str:
    """Images of a path's nodes and of its student's snapshots."""
    return f"{PATH_SAMPLES}/{method}.safetensors"
