"""A name -> the local files of a checkpoint, whatever its layout.

Three layouts are understood:

own         config.json  model.safetensors[.index.json]  tokenizer.json  templates.json  [words.json]
flat        llm_config.json  model.safetensors  [vit_config.json  vit.safetensors]  [vae_config.json  vae.safetensors]  tokenizer
published   Lance_3B/ or Lance_3B_Video/ (llm_config.json  model.safetensors  tokenizer)  Qwen2.5-VL-ViT/  Wan2.2_VAE.pth
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openlance.errors import CheckpointError

HUB_NAME = "bytedance-research/Lance"
VARIANTS = {"image": "Lance_3B", "video": "Lance_3B_Video"}
VISION_FOLDER = "Qwen2.5-VL-ViT"
AUTOENCODER_FILE = "Wan2.2_VAE.pth"


@dataclass(frozen=True)
class CheckpointFiles:
    """Where the parts of a checkpoint lie. A part that the checkpoint does not have is None."""

    layout: Literal["own", "flat", "published"]
    folder: Path
    config: Path
    weights: Path
    tokenizer: Path
    """Folder of the tokenizer files."""
    templates: Path | None = None
    words: Path | None = None
    vision_config: Path | None = None
    vision_weights: Path | None = None
    autoencoder_config: Path | None = None
    autoencoder_weights: Path | None = None
    variant: str = "image"


def resolve(name: str | Path, *, variant: str | None = None) -> CheckpointFiles:
    """Local files of `name`: a folder in one of the three layouts, `nano` (the embedded model) or the hub name.

    `variant` chooses between the published image and video weights (default: image, or whichever the folder has).
    The hub name downloads what is not yet in the hub's own cache.

    Raises CheckpointError saying what was looked for, where, and what to pass instead.
    """
    if variant not in (None, *VARIANTS):
        raise CheckpointError(f"variant {variant!r} is not known: use one of {sorted(VARIANTS)}")
    if name == "nano":
        return _own(Path(__file__).parent.parent / "nano")
    folder = Path(name).expanduser()
    if not folder.exists() and str(name) == HUB_NAME:
        folder = download(variant or "image")
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder '{folder}': pass the folder of a checkpoint, 'nano', or '{HUB_NAME}'")
    if (folder / "config.json").is_file():
        return _own(folder)
    if (folder / "llm_config.json").is_file():
        return _published(folder, folder.parent) if folder.name in VARIANTS.values() else _flat(folder)
    present = [kind for kind, part in VARIANTS.items() if (folder / part).is_dir()]
    if not present:
        raise CheckpointError(
            f"{folder} is no checkpoint: it has neither config.json (our layout), nor llm_config.json (flat layout), "
            f"nor {' or '.join(VARIANTS.values())} (published layout)"
        )
    kind = variant or present[0]
    if kind not in present:
        raise CheckpointError(f"{folder} lacks {VARIANTS[kind]}/ (variant {kind!r}): download it, or pass variant={present[0]!r}")
    return _published(folder / VARIANTS[kind], folder)


def download(variant: str) -> Path:
    """Fetch the files of one variant of the published weights into the hub's cache; returns the local folder.

    Raises CheckpointError saying what to pass where the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    wanted = [f"{VARIANTS[variant]}/*", f"{VISION_FOLDER}/*", AUTOENCODER_FILE]
    try:
        return Path(snapshot_download(HUB_NAME, allow_patterns=wanted))
    except Exception as error:  # the hub client raises the errors of whichever HTTP library it uses
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"cannot download {HUB_NAME} ({type(error).__name__}: {reason}). Without a network, fetch it elsewhere with "
            f"'hf download {HUB_NAME} --local-dir DIR' and pass DIR, "
            f"a folder with {VARIANTS[variant]}/, {VISION_FOLDER}/ and {AUTOENCODER_FILE}"
        ) from error


def _own(folder: Path) -> CheckpointFiles:
    _require(folder, "config.json", "tokenizer.json")
    return CheckpointFiles(
        layout="own",
        folder=folder,
        config=folder / "config.json",
        weights=_weights(folder),
        tokenizer=folder,
        templates=_optional(folder / "templates.json"),
        words=_optional(folder / "words.json"),
    )


def _flat(folder: Path) -> CheckpointFiles:
    vision = _optional(folder / "vit.safetensors")
    autoencoder = _optional(folder / "vae.safetensors") or _optional(folder / AUTOENCODER_FILE)
    if vision:
        _require(folder, "vit_config.json")
    return CheckpointFiles(
        layout="flat",
        folder=folder,
        config=folder / "llm_config.json",
        weights=_weights(folder),
        tokenizer=folder,
        templates=_optional(folder / "templates.json"),
        words=_optional(folder / "words.json"),
        vision_config=_optional(folder / "vit_config.json"),
        vision_weights=vision,
        autoencoder_config=_optional(folder / "vae_config.json"),
        autoencoder_weights=autoencoder,
    )


def _published(folder: Path, root: Path) -> CheckpointFiles:
    _require(folder, "llm_config.json")
    _require(root, f"{VISION_FOLDER}/vit.safetensors", f"{VISION_FOLDER}/config.json", AUTOENCODER_FILE)
    return CheckpointFiles(
        layout="published",
        folder=root,
        config=folder / "llm_config.json",
        weights=_weights(folder),
        tokenizer=folder,
        templates=_optional(folder / "templates.json") or _optional(root / "templates.json"),
        words=_optional(root / "words.json"),
        vision_config=root / VISION_FOLDER / "config.json",
        vision_weights=root / VISION_FOLDER / "vit.safetensors",
        autoencoder_config=_optional(root / "vae_config.json"),
        autoencoder_weights=root / AUTOENCODER_FILE,
        variant=next((kind for kind, name in VARIANTS.items() if name == folder.name), "image"),
    )


def _weights(folder: Path) -> Path:
    found = _optional(folder / "model.safetensors.index.json") or _optional(folder / "model.safetensors")
    if found is None:
        raise CheckpointError(f"{folder} lacks model.safetensors (or model.safetensors.index.json with its shards): download it again")
    return found


def _optional(path: Path) -> Path | None:
    return path if path.is_file() else None


def _require(folder: Path, *names: str) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}: download it again, or copy what is missing there")
