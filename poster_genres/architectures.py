"""The names of the architectures."""

# Each with the name of its recipe in params.yaml.
ARCHITECTURES = {
    "tutorial": "tutorial",
    "alexnet": "alexnet",
    "residual": "residual",
    "efficientnet_lite0": "efficientnet_lite",
    "efficientnet_lite1": "efficientnet_lite",
    "efficientnet_lite2": "efficientnet_lite",
}
# Names with this beginning are backbones of Hugging Face's transformers: hf/<model ID or folder>.
HUGGING_FACE = "hf/"


def is_known(architecture: object) -> bool:
    """Whether it is the name of an architecture."""
    if not isinstance(architecture, str):
        return False
    return architecture in ARCHITECTURES or (architecture.startswith(HUGGING_FACE) and architecture != HUGGING_FACE)


def recipe_name(architecture: str) -> str:
    """The name of the recipe that an architecture is trained by."""
    return "hf" if architecture.startswith(HUGGING_FACE) else ARCHITECTURES[architecture]
