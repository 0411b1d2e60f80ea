"""Import of EDM checkpoints: the weights arrive bit for bit, the configuration is read from the file, wrong files say what is wrong."""

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from edm_pickles import foreign_ema, randomised, write_checkpoint

from backtrail.denoiser import Condition
from backtrail.errors import UserError
from backtrail.nets.build import load_denoiser, save_denoiser
from backtrail.nets.dhariwal import DhariwalConfiguration
from backtrail.nets.edm import EDM, IDDPM, VE, VP, EDMTeacher, build
from backtrail.nets.songunet import SongUNetConfiguration
from backtrail.teachers.edm import import_edm
from backtrail.teachers.pickled_tensors import read_pickle
from backtrail.teachers.published import PUBLISHED
from backtrail.tensors import save_tensors

torch.set_num_threads(1)

TINY = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "num_blocks": 1, "attn_resolutions": (4,)}
NCSN = {"embedding_type": "fourier", "channel_mult_noise": 2, "resample_filter": (1, 3, 3, 1)}
NETS = {
    "ddpmpp": SongUNetConfiguration(**TINY, model_channels=16, channel_mult=(1, 2), augment_dim=9),
    "ddpmpp-cond": SongUNetConfiguration(**TINY, model_channels=16, channel_mult=(1, 2), label_dim=3),
    "ncsnpp": SongUNetConfiguration(**TINY, model_channels=16, channel_mult=(1, 2), encoder_type="residual", **NCSN),
    "skip": SongUNetConfiguration(**TINY, model_channels=16, channel_mult=(1, 2), encoder_type="skip", decoder_type="skip", **NCSN),
    "adm": DhariwalConfiguration(**TINY, model_channels=32, channel_mult=(1, 2), label_dim=3),
}
PRECONDITIONINGS = {"edm": EDM(sigma_data=0.6), "vp": VP(beta_d=19.0), "ve": VE(), "iddpm": IDDPM(M=50)}


def teacher(net: str, preconditioning: str = "edm") -> EDMTeacher:
    configuration = NETS[net]
    if preconditioning == "iddpm":
        configuration = configuration.model_copy(update={"out_channels": 2 * configuration.in_channels})
    return EDMTeacher(preconditioning=PRECONDITIONINGS[preconditioning], net=configuration)


def evaluate(denoiser: torch.nn.Module, labels: torch.Tensor | None = None) -> torch.Tensor:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    return denoiser(x, torch.tensor([0.3, 7.0]), Condition(labels=labels))


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
@pytest.mark.parametrize("net", NETS)
def test_a_checkpoint_arrives_bit_for_bit(tmp_path, net, preconditioning):
    configuration = teacher(net, preconditioning)
    original = randomised(configuration)
    imported = import_edm(write_checkpoint(tmp_path / "teacher.pkl", foreign_ema(original, configuration)))
    assert imported.configuration == configuration
    assert not imported.training and not any(p.requires_grad for p in imported.parameters())
    expected = original.state_dict()
    assert list(imported.state_dict()) == list(expected)
    for name, value in imported.state_dict().items():
        assert torch.equal(value, expected[name]), name
    labels = torch.tensor([0, 2]) if configuration.net.label_dim else None
    assert torch.equal(evaluate(imported, labels), evaluate(original, labels))

    save_denoiser(tmp_path / "teacher.safetensors", imported, source="sha256 of the file")
    again = load_denoiser(tmp_path / "teacher.safetensors")
    assert again.configuration == configuration
    assert (again.n_classes, again.image_shape) == (configuration.net.label_dim, (configuration.net.in_channels, 8, 8))
    assert torch.equal(evaluate(again, labels), evaluate(original, labels))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_that_python_3_wrote_is_read(tmp_path, protocol):
    configuration = teacher("ddpmpp")
    original = randomised(configuration)
    imported = import_edm(write_checkpoint(tmp_path / "teacher.pkl", foreign_ema(original, configuration), protocol))
    assert torch.equal(evaluate(imported), evaluate(original))


def test_numbers_of_every_kind_arrive(tmp_path):
    path = tmp_path / "numbers.pkl"
    values = {
        "tensors": [torch.arange(6).reshape(2, 3), torch.tensor(2.5, dtype=torch.float64), torch.zeros(0), torch.ones(2).bfloat16()],
        "numpy": [np.sqrt(0.5), np.float32(0.1), np.int64(-3), np.bool_(True)],
        "python": [
            -1,
            70000,
            2**40,
            -(2**70),
            1.5,
            float("inf"),
            True,
            None,
            "ä",
            b"bytes",
            (),
            (1,),
            (1, 2, 3, 4),
            {"a"},
            OrderedDict(b=1),
        ],
    }
    for protocol, old, new in ((3, b"numpy._core", b"numpy.core"), (4, b"", b"")):
        path.write_bytes(pickle.dumps(values, protocol).replace(old, new))
        found = read_pickle(path)
        assert found["python"] == values["python"] and found["numpy"] == values["numpy"]
        assert [type(number) for number in found["numpy"]] == [float, float, int, bool]
        for ours, theirs in zip(found["tensors"], values["tensors"], strict=True):
            assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


def test_what_the_checkpoint_leaves_out_has_the_released_default(tmp_path):
    net = SongUNetConfiguration(img_resolution=16, in_channels=1, out_channels=1, model_channels=8, channel_mult=(1,), num_blocks=1)
    configuration = EDMTeacher(preconditioning=EDM(), net=net)
    ema = foreign_ema(randomised(configuration), configuration)
    given = {key: getattr(net, key) for key in ("img_resolution", "in_channels", "out_channels", "model_channels", "num_blocks")}
    ema._modules["model"].__dict__["_init_kwargs"] = {**given, "channel_mult": [1]}
    assert import_edm(write_checkpoint(tmp_path / "teacher.pkl", ema)).configuration == configuration


PARAMETERS = {
    "edm-cifar10-32x32-uncond-vp": 55_733_891,
    "edm-cifar10-32x32-cond-vp": 55_733_891 + 10 * 128 + 128,
    "edm-ffhq-64x64-uncond-vp": 61_805_571,
    "edm-afhqv2-64x64-uncond-vp": 61_805_571,
    "edm-imagenet-64x64-cond-adm": 295_899_267,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_teachers_have_the_published_numbers_of_parameters(name):
    with torch.device("meta"):
        denoiser = build(PUBLISHED[name])
    assert sum(p.numel() for p in denoiser.parameters()) == PARAMETERS[name]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        import_edm(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_wrong_files_are_refused_by_what_is_wrong_with_them(tmp_path):
    configuration = teacher("ddpmpp")
    path, denoiser = tmp_path / "teacher.pkl", randomised(configuration)
    assert "is missing" in refusal(tmp_path / "none.pkl")
    write_checkpoint(path, None)
    assert "no EDM checkpoint" in refusal(path)
    write_checkpoint(path, foreign_ema(denoiser, configuration)._modules["model"])
    assert "no EDM checkpoint" in refusal(path)

    ema = foreign_ema(denoiser, configuration)
    ema._modules["model"].__dict__["_init_kwargs"]["embedding_type"] = "rotary"
    assert "'embedding_type'" in refusal(write_checkpoint(path, ema))
    ema = foreign_ema(denoiser, configuration)
    ema._modules["model"].__dict__["_init_kwargs"]["num_blocks"] = 10**9
    assert "'num_blocks'" in refusal(write_checkpoint(path, ema))
    ema = foreign_ema(denoiser, configuration)
    ema._modules["model"].__dict__["_init_kwargs"]["model_channels"] = 32
    assert "size mismatch" in refusal(write_checkpoint(path, ema))
    ema = foreign_ema(denoiser, configuration)
    del ema._modules["model"]._modules["map_layer1"]
    assert "map_layer1" in refusal(write_checkpoint(path, ema))
    ema = foreign_ema(denoiser, configuration)
    ema._modules["model"]._modules["map_layer1"]._parameters["scale"] = torch.ones(1)
    assert "map_layer1.scale" in refusal(write_checkpoint(path, ema))
    ema = foreign_ema(denoiser, configuration)
    layer = ema._modules["model"]._modules["map_layer1"]
    layer._parameters["bias"] = layer._parameters["bias"].int()
    assert "torch.int32, expected torch.float32" in refusal(write_checkpoint(path, ema))
    ema = foreign_ema(denoiser, configuration)
    net = ema._modules["model"]
    net._modules["map_layer1"]._parameters["bias"] = net._modules["map_layer0"]._parameters["bias"]
    assert "two weights in one place" in refusal(write_checkpoint(path, ema))


def test_a_stored_teacher_must_fit_its_header(tmp_path):
    configuration, path = teacher("adm"), tmp_path / "teacher.safetensors"
    denoiser = randomised(configuration)
    weights = denoiser.state_dict()
    weights.pop("net.out_conv.bias")
    save_tensors(path, weights, {"denoiser": configuration.model_dump(mode="json")})
    with pytest.raises(UserError, match=r"net\.out_conv\.bias"):
        load_denoiser(path)
    save_tensors(path, weights, {})
    with pytest.raises(UserError, match="holds no denoiser"):
        load_denoiser(path)


IMPORT_AND_REPORT_PEAK = """
import resource, sys, torch
torch.set_num_threads(1)
from backtrail.teachers.edm import import_edm
from backtrail.nets.build import save_denoiser
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
save_denoiser(sys.argv[2], import_edm(sys.argv[1]))
print(peak() - before)
"""


def test_import_needs_less_than_twice_the_file_in_memory(tmp_path):
    net = PUBLISHED["edm-cifar10-32x32-uncond-vp"].net.model_copy(update={"model_channels": 64})
    configuration = EDMTeacher(preconditioning=EDM(), net=net)
    path = write_checkpoint(tmp_path / "teacher.pkl", foreign_ema(build(configuration), configuration))
    command = [sys.executable, "-c", IMPORT_AND_REPORT_PEAK, str(path), str(tmp_path / "teacher.safetensors")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 2 * path.stat().st_size
