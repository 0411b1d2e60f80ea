"""The two pictures: trajectories in three dimensions, and samples along the degradation path and back."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from synthetic_suite import STUDENTS, pictures, write_archive, write_suite
from torchvision.utils import make_grid

from backtrail.errors import UserError
from backtrail.report.collect import open_suite
from backtrail.report.degradation import degradation_data, draw_degradation, row_name
from backtrail.report.mosaic import GAP, mosaic
from backtrail.report.style import drawing
from backtrail.report.trajectory import basis, coordinates, draw_trajectory, trajectory_caption, trajectory_data


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return open_suite(write_suite(tmp_path_factory.mktemp("suite")))


def frame(d: int) -> np.ndarray:
    """Orthonormal rows [4, d], turned so that no row is an axis."""
    return np.linalg.qr(np.random.default_rng(7).standard_normal((d, 4)))[0].T


def curve(d: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """A known curve [41, d] and its coordinates: 100 to 0 along a line, an arch of height 3 and a wave of height 1 across it."""
    u = np.linspace(1, 0, 41)
    known = np.stack([100 * u, 3 * np.sin(np.pi * u), np.sin(2 * np.pi * u)], axis=1)
    return 5.0 + known @ frame(d)[:3], known


def test_the_components_of_a_known_curve_are_found():
    states, known = curve()
    axes = basis(states)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    placed, shown = coordinates(states, axes, states[-1])
    signs = np.sign((placed * known).sum(axis=0))
    assert placed == pytest.approx(known * signs, abs=1e-9)
    assert shown == pytest.approx(1.0)
    largest = np.abs(placed[:, 1:]).argmax(axis=0)
    assert (placed[largest, [1, 2]] > 0).all()


def test_a_part_that_the_components_do_not_hold_is_told():
    """A wave along a fourth direction: squares of the heights 3, 1 and 1/2 add up, since the waves are orthogonal."""
    states, _ = curve()
    u = np.linspace(1, 0, 41)
    states = states + 0.5 * np.outer(np.sin(3 * np.pi * u), frame(30)[3])
    _, shown = coordinates(states, basis(states), states[-1])
    assert shown == pytest.approx((9 + 1) / (9 + 1 + 0.25), abs=1e-6)


def test_a_straight_trajectory_is_shown_whole():
    states = np.outer(np.linspace(1, 0, 5), np.ones(8))
    placed, shown = coordinates(states, basis(states), states[-1])
    assert shown == 1.0 and placed[0, 0] == pytest.approx(8**0.5)


def test_students_stand_in_the_teachers_frame_at_the_smallest_trained_nfe(suite):
    data = trajectory_data(suite)
    assert data.groupby("method", sort=False)["nfe"].first().to_dict() == {"heun": 34} | {m: min(t) for m, (t, _) in STUDENTS.items()}
    teacher = data[data["kind"] == "teacher"]
    for _, rows in teacher.groupby("image"):
        assert rows[["component_1", "component_2"]].iloc[[0, -1]].to_numpy() == pytest.approx(0, abs=1e-6)
        assert rows["distance"].iloc[-1] == pytest.approx(0) and rows["distance"].iloc[0] > 1000
    same = data[(data["image"] == 2) & (data["state"] == 0)].set_index("method")
    assert same.loc["sfd", "distance"] == pytest.approx(same.loc["heun", "distance"], rel=1e-3)
    assert data[data["method"] == "sfd"]["state"].max() == 3  # the analytical first step is a state
    assert "SFD, Fig. 7" in trajectory_caption(data)


def test_the_drawn_points_are_the_data(suite):
    data = trajectory_data(suite)
    with drawing():
        figure = draw_trajectory(data)
        FigureCanvasAgg(figure).draw()
    line = next(line for line in figure.axes[1].lines if line.get_label().startswith("SFD-v"))
    rows = data[(data["image"] == 1) & (data["method"] == "sfd-v")]
    assert np.array_equal(line.get_data_3d(), [np.cbrt(rows["distance"]), rows["component_1"], rows["component_2"]])


def test_a_student_without_its_trained_nfe_is_named(tmp_path):
    folder = write_suite(tmp_path)
    states, metadata = {"student/nfe3": np.zeros((3, 4, 1, 16, 16), np.float32)}, {"trained_nfe": [2], "times": {"student/nfe3": [2, 1, 0]}}
    write_archive(folder / "results/states/sfd/seed0.safetensors", states, metadata)
    with pytest.raises(UserError, match=r"states of sfd hold no student/nfe2 \(found: student/nfe3\)"):
        trajectory_data(open_suite(folder))


def test_rows_go_down_the_path_and_back(suite):
    data = degradation_data(suite)
    names = {method: [row_name(row) for _, row in rows.drop_duplicates("key").iterrows()] for method, rows in data.groupby("method")}
    assert names["disback"][:6] == [
        "teacher, path loss 1.1",
        "node 1, step 6, path loss 0.157",
        "node 2, step 12, path loss 0.0846",
        "node 3, step 24, path loss 0.044",
        "student, update 0, target node 2",
        "student, update 4, target node 1",
    ]
    assert names["disback"][6] == "student, update 8, target teacher"
    assert names["diff-instruct"][:2] == ["teacher, path loss 1.1", "student, update 0, target teacher"]
    assert list(data["column"].unique()) == list(range(10))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_is_torchvisions_grid(channels):
    images = np.random.default_rng(0).integers(0, 256, (6, channels, 4, 5), dtype=np.uint8)
    grid = make_grid(torch.from_numpy(images), nrow=3, padding=GAP, pad_value=255)
    inner = grid[:channels, GAP:-GAP, GAP:-GAP].permute(1, 2, 0).numpy()  # torchvision pads the border as well, and makes grey RGB
    assert np.array_equal(mosaic(list(images), 3), inner)


def test_pictures_lie_where_their_row_and_column_say(suite):
    shown = mosaic([np.full((3, 4, 5), i, np.uint8) for i in range(6)], 3)
    assert shown.shape == (2 * 4 + GAP, 3 * 5 + 2 * GAP, 3)
    assert [shown[y, x, 0] for y in (0, 4 + GAP) for x in (0, 5 + GAP, 2 * (5 + GAP))] == [0, 1, 2, 3, 4, 5]
    assert (shown[4] == 255).all() and (shown[:, 5] == 255).all()
    with drawing():
        figure = draw_degradation(degradation_data(suite))
    picture = figure.axes[1].images[0].get_array()  # DisBack
    assert np.array_equal(picture[3 * 17 : 3 * 17 + 16, 2 * 17 : 2 * 17 + 16], pictures(3, 0.02 + 0.02 * 24)[2, 0])
