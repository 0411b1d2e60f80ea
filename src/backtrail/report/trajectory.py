"""Sampling trajectories in three dimensions (SFD, Fig. 7): the direction from noise to image, and two principal components of the rest."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.axes3d import Axes3D

from backtrail import layout
from backtrail.errors import UserError
from backtrail.report.collect import Suite, all_states
from backtrail.report.names import literal, look
from backtrail.report.style import legend_below

COMPONENTS = 2
DECIMALS = 6  # of what is written: a state on the line has components of 1e-12, whose digits depend on the processor


def basis(states: np.ndarray) -> np.ndarray:
    """The frame of one trajectory [T + 1, d]: orthonormal rows [3, d], the first from the last state (the image) to the first (noise).

    The others are the principal components of the states' deviation from the straight line between the two, most of it first. They are
    taken about that line and not about a mean, since the line is what a single step would walk. A component's sign makes its largest value
    positive.
    """
    path = states - states[-1]
    direction = path[0] / np.linalg.norm(path[0])
    rest = path - np.outer(path @ direction, direction)
    components = np.linalg.svd(rest, full_matrices=False)[2][:COMPONENTS]
    seen = rest @ components.T
    signs = np.sign(seen[np.abs(seen).argmax(axis=0), np.arange(len(components))])
    return np.vstack([direction, components * np.where(signs == 0, 1, signs)[:, None]])


def coordinates(states: np.ndarray, frame: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, float]:
    """Coordinates [T + 1, 3] in a frame about `origin`, and the share of the squared deviation from the straight line that they show.

    A trajectory without any deviation is shown whole.
    """
    path = states - origin
    placed = path @ frame.T
    deviation = (path**2).sum() - (placed[:, 0] ** 2).sum()
    return placed, float((placed[:, 1:] ** 2).sum() / deviation) if deviation > 1e-12 * (path**2).sum() else 1.0


def trajectory_data(suite: Suite) -> pd.DataFrame:
    """Every state: image, kind (teacher, student), method, nfe, state, sigma, distance, component_1, component_2 (data units), shown.

    `shown` is the share of the trajectory's squared deviation from the straight line that the two components hold. Students of the first
    seed, at the smallest NFE that they were trained for.
    """
    file = suite.folder / layout.states()
    stored, metadata = all_states(file, "stage `teacher-samples`")
    key, teacher = max(stored.items(), key=lambda item: len(item[1]))
    tracks = [("teacher", key.partition("/")[0], key, teacher, metadata["times"][key])]
    for method in suite.methods():
        maker = f"stage `samples` of {method}, seed {suite.seeds[0]},"
        stored, metadata = all_states(suite.folder / layout.states(method, suite.seeds[0]), maker)
        key = f"student/nfe{min(metadata['trained_nfe'])}"
        if key not in stored:
            raise UserError(f"the states of {method} hold no {key} (found: {', '.join(stored)}): add its time stamps to sample_num_steps")
        tracks.append(("student", method, key, stored[key], metadata["times"][key]))
    parts = []
    for image in range(teacher.shape[1]):
        reference = teacher[:, image].reshape(len(teacher), -1).astype(np.float64)
        frame = basis(reference)
        for kind, method, key, states, times in tracks:
            placed, shown = coordinates(states[:, image].reshape(len(states), -1).astype(np.float64), frame, reference[-1])
            placed, shown = placed.round(DECIMALS) + 0.0, round(shown, DECIMALS)  # + 0.0: a zero without a sign
            head = {"image": image, "kind": kind, "method": method, "nfe": int(key.rpartition("nfe")[2]), "state": range(len(states))}
            places = {"distance": placed[:, 0], "component_1": placed[:, 1], "component_2": placed[:, 2], "shown": shown}
            parts.append(pd.DataFrame({**head, "sigma": times, **places}))
    return pd.concat(parts, ignore_index=True)


def squeezed(distance: "pd.Series[float]") -> "pd.Series[float]":
    """Where a distance from the image is drawn: almost all bends lie within a hundredth of the way, and a cube root shows them."""
    return np.cbrt(distance)


def draw_trajectory(data: pd.DataFrame) -> Figure:
    """SFD, Fig. 7: a panel an image, the teacher's states as points on a line, each student's steps dashed."""
    images = list(data["image"].unique())
    columns = min(2, len(images))
    figure = Figure(figsize=(4.6 * columns, 3.3 * -(-len(images) // columns) + 0.6), layout="constrained")
    panels: list[Axes3D] = list(figure.subplots(-(-len(images) // columns), columns, squeeze=False, subplot_kw={"projection": "3d"}).flat)
    for panel in panels[len(images) :]:
        panel.remove()
    for image, axes in zip(images, panels, strict=False):
        of_image = data[data["image"] == image]
        for method, rows in of_image.groupby("method", sort=False):
            teacher = rows["kind"].iloc[0] == "teacher"
            of = look(str(method))
            style = {
                "linewidth": 1.6 if teacher else 1.2,
                "linestyle": "-" if teacher else (0, (3, 1.5)),
                "markersize": 2.5 if teacher else 5,
            }
            places = (squeezed(rows["distance"]), rows["component_1"], rows["component_2"])
            axes.plot(
                *places, color=of.colour, marker="o" if teacher else of.marker, label=f"{of.label}, NFE {rows['nfe'].iloc[0]}", **style
            )
        _dress(axes, of_image, f"Image seed {image}")
    legend_below(figure, [], 3)
    return figure


def _dress(axes: Axes3D, data: pd.DataFrame, title: str) -> None:
    """Title, names of the axes, and distances to scale on the squeezed one."""
    most = data["distance"].max()
    ticks = pd.Series([0.0, *(10.0**k for k in range(1, 6) if 10.0**k <= most)])
    axes.set_xticks(squeezed(ticks), [f"{tick:g}" for tick in ticks])
    for axis in (axes.yaxis, axes.zaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))  # more are crowded at this angle
    axes.set_title(literal(title))
    axes.set_xlabel("Distance from the image", fontsize=7.5, labelpad=-2)
    axes.set_ylabel("Component 1", fontsize=7.5, labelpad=-2)
    axes.set_zlabel("Component 2", fontsize=7.5, labelpad=-4)
    axes.tick_params(labelsize=6.5, pad=-1)
    axes.view_init(elev=22, azim=-60)
    axes.set_box_aspect((1.35, 1, 0.8), zoom=1.06)


def trajectory_caption(data: pd.DataFrame) -> str:
    """What the axes are, and how much of the trajectories they show."""
    shown = data.groupby(["kind", "method", "image"], sort=False)["shown"].first()
    held = {kind: " to ".join(dict.fromkeys((f"{of.min():.0%}", f"{of.max():.0%}"))) for kind, of in shown.groupby("kind")}
    students = f"; of the students', {held['student']}" if "student" in held else ""
    return (
        "Sampling trajectories from the same noise, one panel an image. First axis: distance from the teacher's image along the straight "
        "line to its noise, in units of the data, drawn at its cube root; the others: the first two principal components of the teacher's "
        f"deviation from that line, which hold {held['teacher']} of it{students}. Points: the "
        "states; students of the first training seed, at the smallest NFE they were trained for. A student's analytical first step is a "
        "state too. Compare SFD, Fig. 7."
    )
