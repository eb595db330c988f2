"""The presets of conf/trainer for GPUs of different sizes, from much memory to little."""

from collections.abc import Sequence

# Bytes for a weight, its gradient and its optimizer state, for each weight of the denoiser.
_BYTES = {"gpu_80gb": 16.0, "gpu_24gb": 16.0, "gpu_16gb": 10.0, "gpu_8gb": 2.0}


def smaller_presets(trainer: str, takes_adapter: bool) -> list[str]:
    """The presets with less memory than `trainer`, a choice of conf/trainer, from much to little.

    `takes_adapter`: whether the method does, which the smallest preset chooses.
    """
    names = list(_BYTES) if takes_adapter else list(_BYTES)[:-1]
    return names[names.index(trainer) + 1 :] if trainer in names else names[1:]


def advice(presets: Sequence[str], num_weights: int, gpu_bytes: int | None) -> str:
    """The first of the presets that may fit a GPU, or what else to try.

    `num_weights`: of the denoiser. `gpu_bytes`: the size of the GPU, if it is known. Presets whose
    weights, gradients and optimizer states alone do not fit are passed over.
    """
    for name in presets:
        if gpu_bytes is None or _BYTES[name] * num_weights < gpu_bytes:
            return f"try trainer={name}"
    return "try a smaller model, or several devices with trainer.strategy=fsdp"
