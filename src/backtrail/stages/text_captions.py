"""`backtrail text-captions`: captions as the text encoder sees them."""

from backtrail import layout
from backtrail.data.caption_archive import encode_captions, save_captions
from backtrail.data.captions import CAPTIONS
from backtrail.data.fetched_folder import fetched_files
from backtrail.nets.sentence_encoder import load_sentence_encoder
from backtrail.running.torch_stage import TorchStage, torch_stage


@torch_stage
def command(stage: TorchStage) -> None:
    """Encode each distinct caption, and the empty one, once: tokens, mask and mean vector in one archive."""
    digest = fetched_files(layout.TEXT_ENCODER)["model.safetensors"]
    save_captions(layout.CAPTIONS, encode_captions(CAPTIONS, load_sentence_encoder(layout.TEXT_ENCODER), digest))
