"""The presets of conf/trainer for GPUs of different sizes, from much memory to little."""

# Bytes for a weight, its gradient and its optimizer state, for each weight of the denoiser.
_BYTES = {"gpu_80gb": 16.0, "gpu_24gb": 16.0, "gpu_16gb": 10.0, "gpu_8gb": 2.0}


def advice(trainer: str, num_weights: int, gpu_bytes: int | None) -> str:
    """What to try where training does not fit with `trainer`, a choice of conf/trainer.

    `num_weights`: of the denoiser. `gpu_bytes`: the size of the GPU, if it is known. Presets whose
    weights, gradients and optimizer states alone do not fit are passed over.
    """
    names = list(_BYTES)
    smaller = names[names.index(trainer) + 1 :] if trainer in names else names[1:]
    for name in smaller:
        if gpu_bytes is None or _BYTES[name] * num_weights < gpu_bytes:
            return f"try trainer={name}"
    return "try a smaller model, or several devices with trainer.strategy=fsdp"
