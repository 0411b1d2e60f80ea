"""LPIPS against the authors' own package with the same random VGG16, and its files."""

from importlib.machinery import PathFinder

import lpips
import pytest
import torch
from torchvision.models import vgg

from backtrail.artifacts import file_digest
from backtrail.errors import UserError
from backtrail.methods.sfd.distillation import distil, walk
from backtrail.methods.sfd.lpips import load_lpips
from backtrail.methods.sfd.trajectories import Pool
from backtrail.parameters.base import validate
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from unit.oracles import tiny_denoiser


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """VGG16's convolutions at random, and one of the layers after them, which the published file has and LPIPS does not use."""
    torch.manual_seed(0)
    features = vgg.make_layers(vgg.cfgs["D"]).state_dict()
    tensors = {f"features.{name}": value for name, value in features.items()} | {"classifier.6.bias": torch.zeros(1000)}
    file = tmp_path_factory.mktemp("lpips") / "vgg16.pth"
    torch.save(tensors, file)
    return file


@pytest.mark.filterwarnings("ignore::UserWarning")  # the package names torchvision's weights in a way that is deprecated
def test_distance_is_the_packages_own(weights_file):
    ours, theirs = load_lpips(str(weights_file), file_digest(weights_file)), lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for name, value in ours.features.state_dict().items():
        (slot,) = (key for key in theirs.net.state_dict() if key.partition(".")[2] == name)
        theirs.net.get_parameter(slot).data.copy_(value)
    x, y = (torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2))
    y[1] = x[1]
    resized = [torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", align_corners=False) for image in (x, y)]
    with torch.no_grad():
        expected, found = theirs(*resized).flatten(), ours(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert found[0] > 0 and found[1] == 0


def test_a_package_without_the_linear_layers_is_one_sentence(weights_file, monkeypatch, tmp_path):
    (tmp_path / "lpips").mkdir()
    (tmp_path / "lpips/__init__.py").write_text("")
    monkeypatch.setattr("backtrail.methods.sfd.lpips.find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    with pytest.raises(UserError, match=r"the package `lpips` has no weights/v0.1/vgg.pth of LPIPS 0.1, or another: install version 0.1.4"):
        load_lpips(str(weights_file), file_digest(weights_file))


def parameters(**changes) -> TrajectoryDistillation:
    base = {"rounds": 1, "batch": 2, "pool": 1, "optimiser": {"lr": 1e-3}, "loss": "l1+lpips"}
    return validate(TrajectoryDistillation, base | changes, "method")


@pytest.mark.slow
def test_it_enters_the_last_step_alone_weighted_by_the_pixels(weights_file, monkeypatch):
    monkeypatch.chdir(weights_file.parent)
    teacher, weights = tiny_denoiser(), {"file": weights_file.name, "sha256": file_digest(weights_file)}
    runs = {}
    for loss, files in (("l1", None), ("l1+lpips", weights)):
        p = parameters(loss=loss, lpips=files, substeps=1, solver="heun")
        runs[loss] = distil(Pool(teacher, p), 0, lambda student: 0.0)
    with_it, without = (runs[loss].rows[-1]["loss_student"] for loss in ("l1+lpips", "l1"))
    assert with_it > without  # the first of the two updates is the same, so only the last step's loss differs
    p = parameters(loss="l1+lpips", lpips=weights, num_steps=[3], optimiser={"lr": 1e-12})
    pool = Pool(teacher, p)
    state = distil(pool, 0, lambda student: 0.0)
    piece = pool.piece(3, 0)
    ((_, predicted, target),) = walk(teacher, piece, p)
    l1 = (predicted - target).abs().flatten(1).sum(1).mean()
    perceptual = load_lpips(**weights)(predicted, target).mean()
    assert state.rows[-1]["loss_student"] == pytest.approx((l1 + predicted[0].numel() * perceptual).item(), rel=1e-5)


def test_an_absent_file_is_one_sentence_before_training():
    teacher, p = tiny_denoiser(), parameters(lpips={"file": "nowhere.safetensors", "sha256": "0" * 64})
    with pytest.raises(UserError, match=r"VGG16's weights nowhere.safetensors are missing: put the file there, or take the loss l1"):
        distil(Pool(teacher, p), 0, lambda student: 0.0)


def test_another_file_is_refused(weights_file, tmp_path):
    with pytest.raises(UserError, match=r"have sha256 \w{64}, params.yaml expects 0000"):
        load_lpips(str(weights_file), "0" * 64)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="does not hold VGG16's weights"):
        load_lpips(str(tmp_path / "other.pth"), file_digest(tmp_path / "other.pth"))
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match="does not hold VGG16's weights"):
        load_lpips(str(tmp_path / "broken.pth"), file_digest(tmp_path / "broken.pth"))
