"""Genuine pickles as other code writes them: what EDM itself would load is imported, what is of another kind is called by its name."""

import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from edm_pickles import Foreign, ForeignObject, foreign_ema, foreign_package, randomised, write_checkpoint
from torch import nn

from backtrail.errors import UserError
from backtrail.nets.edm import EDM, EDMTeacher
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.teachers.edm import import_edm
from backtrail.teachers.pickled_tensors import read_pickle

torch.set_num_threads(1)

NET = SongUNetConfiguration(img_resolution=8, in_channels=3, out_channels=3, model_channels=8, channel_mult=(1, 2), num_blocks=1)
TEACHER = EDMTeacher(preconditioning=EDM(), net=NET)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        import_edm(path)
    sentence = str(error.value)
    assert "\n" not in sentence and len(sentence) < 600
    return sentence


@pytest.mark.parametrize("protocol", [2, 4])
def test_channels_last_weights_arrive_bit_for_bit(tmp_path, protocol):
    original = randomised(TEACHER)
    expected = {name: value.clone() for name, value in original.state_dict().items()}
    moved = original.to(memory_format=torch.channels_last)
    assert not all(value.is_contiguous() for value in moved.state_dict().values())
    found = import_edm(write_checkpoint(tmp_path / "t.pkl", foreign_ema(moved, TEACHER), protocol)).state_dict()
    for name, value in found.items():
        assert torch.equal(value, expected[name]) and value.stride() == torch.empty(value.shape).stride(), name


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2), (2, 3, 0, 1)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 1), (1, 1, 1, 1), (0, 3, 4, 5)])
def test_every_order_of_the_axes_is_read(tmp_path, shape, order):
    value = torch.arange(2 * 3 * 4 * 5).float()[: torch.Size(shape).numel()].reshape(shape).permute(order)
    path = tmp_path / "t.pkl"
    path.write_bytes(pickle.dumps(value))
    found = read_pickle(path)
    assert torch.equal(found, value) and found.is_contiguous()


def test_strided_and_broadcast_tensors_stay_out(tmp_path):
    path = tmp_path / "t.pkl"
    for value in (torch.arange(12)[::2], torch.zeros(1).expand(10**9), torch.arange(6).as_strided((3, 3), (1, 1))):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match="not contiguous, in whatever order of its axes"):
            read_pickle(path)


def module_of(name: str, class_name: str) -> type:
    """A class that pickles by reference, as torch's own modules do: nothing but its name is in the file."""
    kind = type(class_name, (nn.Module,), {"__module__": name})
    package = types.ModuleType(name)
    setattr(package, class_name, kind)
    sys.modules[name] = package
    return kind


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_student_of_sfds_code_is_called_so(tmp_path, monkeypatch, protocol):
    """Its training loop writes dict(model=net), with the network's classes by reference."""
    for name in ("models", "models.networks_edm"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    net = module_of("models.networks_edm", "EDMPrecond")()
    net.model = module_of("models.networks_edm", "SongUNet")()
    net.training_kwargs = {"num_steps": 4, "dataset_name": "cifar10"}
    sys.modules["models.networks_edm"].EDMPrecond = type(net)
    path = tmp_path / "network-snapshot-000200.pkl"
    path.write_bytes(pickle.dumps({"model": net}, protocol))
    sentence = refusal(path)
    assert "a student network of SFD's training code" in sentence and "name one of the published EDM teachers" in sentence
    assert "'models.networks_edm.EDMPrecond'" in sentence and "get it again" not in sentence


@pytest.mark.parametrize("encoder", ["StandardRGBEncoder", "StabilityVAEEncoder", None])
def test_a_checkpoint_of_edm2_is_called_so(tmp_path, encoder):
    """Its training loop writes the encoder first, whose state holds numpy arrays where it has statistics of latents."""
    net = Foreign("Precond", "source", {"img_resolution": 8}, sigma_data=0.5)
    net._modules = OrderedDict(unet=Foreign("UNet", "source", {}))
    content = {"ema": net} if encoder is None else {"encoder": ForeignObject(encoder, scale=np.ones(4, np.float32)), "ema": net}
    path = tmp_path / "edm2-img512-xs-2147483-0.135.pkl"
    with foreign_package(), open(path, "wb") as file:
        pickle.dump(content, file)
    sentence = refusal(path)
    assert "it is a checkpoint of EDM2 (arXiv 2312.02696)" in sentence and "name one of the published EDM teachers" in sentence
    assert "get it again" not in sentence


def write_torch(path: Path, value: object, **options: bool) -> Path:
    torch.save(value, path, **options)
    return path


READ = "name EDM's pickle, a suite's teacher.safetensors or the folder of a diffusers pipeline"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"_use_new_zipfile_serialization": True}, "it is a zip file of torch.save, which holds weights and not the network"),
        ({"_use_new_zipfile_serialization": False}, "it is an old file of torch.save, which holds weights and not the network"),
    ],
)
def test_a_file_of_torch_save_is_called_so(tmp_path, kind, words):
    for value in ({"conv_in.weight": torch.ones(3)}, {"net": nn.Linear(2, 2)}):
        sentence = refusal(write_torch(tmp_path / "x.pt", value, **kind))
        assert words in sentence and READ in sentence and "get it again" not in sentence


@pytest.mark.parametrize("content", [b'{"_class_name": "UNet2DModel"}', b"hello", b"PK\x03\x04 images"])
def test_what_is_no_pickle_is_not_to_be_got_again(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    assert READ in (sentence := refusal(tmp_path / "x.pkl")) and "get it again" not in sentence


def test_a_name_that_only_begins_alike_is_no_student(tmp_path):
    path = tmp_path / "t.pkl"
    path.write_bytes(b"\x80\x04cmodels.networks_edm_evil\nrun\n)R.")
    assert "'models.networks_edm_evil.run', which is not part of a checkpoint" in refusal(path)
