"""dvc.lock as DVC writes it."""

from backtrail.ledger.ledger import parse_lock

LOCK = """
schema: '2.0'
stages:
  a:
    cmd: python src/backtrail a
    params:
      params.yaml:
        kl_weight: 1e-06
        optimiser:
          lr: 2.5e-05
          betas: [0.0, 1e-08]
        name: 1e-x
      code.yaml:
        a: 0e12
"""


def test_small_numbers_are_numbers_as_dvc_writes_them() -> None:
    stage = parse_lock(LOCK)["a"]
    assert stage.params == {"kl_weight": 1e-6, "optimiser": {"lr": 2.5e-5, "betas": [0.0, 1e-8]}, "name": "1e-x"}
    assert stage.code == "0e12"  # a digest is none
