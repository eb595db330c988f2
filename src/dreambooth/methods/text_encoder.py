"""Training the text encoder beside the denoiser of the base stage (method.train_text_encoder)."""

from dataclasses import replace

from dreambooth.backbones.stage import Backbone, Stage
from dreambooth.methods.method import Trained


def check_text_encoder(train_text_encoder: bool, backbone: Backbone) -> None:
    """ValueError if the text encoder is to train and cannot."""
    if train_text_encoder and not backbone.stages["base"].can_train_text_encoder:
        raise ValueError(
            f"method.train_text_encoder=true is not available for {backbone.name}, which does not "
            "have exactly one text encoder that is saved with it: leave out train_text_encoder"
        )


def with_text_encoder(trained: Trained, stage: Stage, learning_rate: float | None) -> Trained:
    """Add the trainable parameters of the text encoder, at a learning rate of their own."""
    parameters = [p for p in stage.text_encoder.parameters() if p.requires_grad]
    rate = {} if learning_rate is None else {"lr": learning_rate}
    return replace(
        trained,
        modules={**trained.modules, "text_encoder": stage.text_encoder},
        groups=[*trained.groups, {"params": parameters, **rate}],
        changes_prompts=True,
    )
