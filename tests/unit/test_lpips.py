"""LPIPS against torch-fidelity's implementation with the same random weights, and its file."""

import pytest
import torch
import torchvision
from torch_fidelity import sample_similarity_lpips

from backtrail.artifacts import file_digest
from backtrail.errors import UserError
from backtrail.methods.sfd.distillation import distil, walk
from backtrail.methods.sfd.lpips import CHANNELS, LPIPS, load_lpips
from backtrail.methods.sfd.trajectories import Pool
from backtrail.parameters.base import validate
from backtrail.parameters.trajectory_distillation import TrajectoryDistillation
from backtrail.tensors import save_tensors
from unit.oracles import tiny_denoiser


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    torch.manual_seed(0)
    features = torchvision.models.vgg16(weights=None).features.state_dict()
    tensors = {f"features.{name}": value for name, value in features.items()}
    tensors |= {f"lin{k}.weight": torch.rand(1, c, 1, 1) / c for k, c in enumerate(CHANNELS)}
    file = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_tensors(file, tensors)
    return file


def test_distance_agrees_with_torch_fidelity(weights_file):
    ours = load_lpips(str(weights_file), file_digest(weights_file))
    reference = reference_lpips(ours)
    x, y = (torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(2))
    resized = [torch.nn.functional.interpolate(image, size=(224, 224), mode="bilinear", align_corners=False) for image in (x, y)]
    with torch.no_grad():
        expected = reference(*resized)
        found = ours(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.min() > 0 and ours(x, x).abs().max() == 0


def reference_lpips(ours: LPIPS):
    """torch-fidelity's VGG16 and linear layers, filled with our weights; its heads take differences of normalised features."""
    vgg = sample_similarity_lpips.VGG16features.__new__(sample_similarity_lpips.VGG16features)
    torch.nn.Module.__init__(vgg)
    plain = torchvision.models.vgg16(weights=None).features
    plain.load_state_dict({k.removeprefix("features."): v for k, v in ours.state_dict().items() if k.startswith("features.")}, strict=False)
    places = [0, 4, 9, 16, 23, 30]
    for k in range(5):
        setattr(vgg, f"slice{k + 1}", torch.nn.Sequential(*[plain[i] for i in range(places[k], places[k + 1])]))
    vgg.eval()

    def distance(x, y):
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1), torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
        total = 0.0
        for k, (a, b) in enumerate(zip(vgg((x - shift) / scale), vgg((y - shift) / scale), strict=True)):
            a, b = (sample_similarity_lpips.normalize_tensor(f) for f in (a, b))
            total = total + torch.nn.functional.conv2d((a - b) ** 2, ours.get_submodule(f"lin{k}").weight).mean(dim=(1, 2, 3))
        return total

    return distance


def parameters(**changes) -> TrajectoryDistillation:
    base = {"rounds": 1, "batch": 2, "pool": 1, "optimiser": {"lr": 1e-3}, "loss": "l1+lpips"}
    return validate(TrajectoryDistillation, base | changes, "method")


def test_it_enters_the_last_step_alone_weighted_by_the_pixels(weights_file, monkeypatch):
    monkeypatch.chdir(weights_file.parent)
    teacher, weights = tiny_denoiser(), {"file": weights_file.name, "sha256": file_digest(weights_file)}
    runs = {}
    for loss, lpips in (("l1", None), ("l1+lpips", weights)):
        p = parameters(loss=loss, lpips=lpips, substeps=1, solver="heun")
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
    with pytest.raises(UserError, match=r"the LPIPS weights nowhere.safetensors are missing: put the file there, or take the loss l1"):
        distil(Pool(teacher, p), 0, lambda student: 0.0)


def test_another_file_is_refused(weights_file, tmp_path):
    with pytest.raises(UserError, match=r"have sha256 \w{64}, params.yaml expects 0000"):
        load_lpips(str(weights_file), "0" * 64)
    save_tensors(tmp_path / "other.safetensors", {"lin0.weight": torch.zeros(1, 64, 1, 1)})
    with pytest.raises(UserError, match="does not hold LPIPS's weights"):
        load_lpips(str(tmp_path / "other.safetensors"), file_digest(tmp_path / "other.safetensors"))
