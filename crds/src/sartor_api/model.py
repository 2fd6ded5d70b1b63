"""What model is served, and where its weights come from."""

from typing import Annotated, Literal

from pydantic import Field

from sartor_api.base import ApiModel, Rule, exactly_one
from sartor_api.fields import Commit, Digest, KeyReference, Pattern, RelativePath, ShortText, Url

CheckpointKind = Literal["chain", "random", "tinyTrained"]
Architecture = Literal["llama", "qwen3"]
DType = Literal["bfloat16", "float16", "float32"]


class HuggingFaceSource(ApiModel):
    """A repository of a model hub, pinned to a commit."""

    repository: Annotated[str, Pattern(r"[\w.-]+/[\w.-]+", "a repository such as Qwen/Qwen3-32B", 256)]
    """OWNER/NAME of the repository."""
    revision: Commit
    """The full commit. Branches and tags move, so they are not taken."""
    token_secret_ref: KeyReference | None = None
    """Secret with an access token, for a gated or private repository (key `token` by default)."""
    endpoint: Url | None = None
    """Address of a mirror of the hub."""


class PersistentVolumeClaimSource(ApiModel):
    """A folder on a volume. Without a cluster (`sartor run`) the claim is a folder on this machine."""

    claim_name: Annotated[str, Field(min_length=1, max_length=1024)]
    """Name of the claim; with `sartor run` a folder, absolute or relative to the manifest."""
    path: RelativePath | None = None
    """Folder of the checkpoint within the claim; by default its root."""
    digest: Digest | None = None
    """Digest of the checkpoint's file list (names and contents). Given, it is verified before the first use;
    otherwise it is computed and recorded, and a change stops the run."""


class OciSource(ApiModel):
    """An OCI artefact or image that holds the checkpoint."""

    image: Annotated[
        str,
        Pattern(
            r"[a-zA-Z0-9][\w.:/-]*@sha256:[0-9a-f]{64}",
            "an image pinned by digest (registry.example.com/models/x@sha256:…)",
            512,
        ),
    ]
    """The reference with its digest. Tags move, so a tag alone is not taken."""
    path: RelativePath | None = None
    """Folder of the checkpoint within the image; by default its root."""
    pull_secret_ref: KeyReference | None = None
    """Secret with registry credentials (type kubernetes.io/dockerconfigjson)."""


class S3Source(ApiModel):
    """Objects below a prefix of an S3-compatible store."""

    bucket: Annotated[str, Pattern(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", "a bucket name", 63)]
    """The bucket."""
    prefix: RelativePath
    """Prefix of the checkpoint's files."""
    digest: Digest
    """Digest of the checkpoint's file list (names and contents): it pins what a prefix does not."""
    endpoint: Url | None = None
    """Address of the store; by default that of the region."""
    region: ShortText | None = None
    """The region."""
    credentials_secret_ref: KeyReference | None = None
    """Secret with `accessKeyId` and `secretAccessKey`; by default the pod's own identity is used."""


class SyntheticSource(ApiModel):
    """A checkpoint that Sartor makes itself, in the ordinary layout: needs no hub, for demonstrations and tests."""

    kind: CheckpointKind = "chain"
    """`chain`: full compute cost and a greedy text that is known in advance; `random`: seeded random weights;
    `tinyTrained`: a few million parameters trained on the Python standard library."""
    architecture: Architecture = "llama"
    """Architecture of the model."""
    size: Annotated[str, Pattern(r"tiny|[1-9][0-9]{0,3}[mb]", "a size such as tiny, 52m, 500m or 1b", 16)] = "52m"
    """Approximate number of parameters: `tiny`, or a number with `m` (million) or `b` (billion)."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """Seed of the weights."""


class ModelSource(ApiModel):
    """Where the weights come from; exactly one of these, pinned so that it cannot change under a run."""

    hugging_face: HuggingFaceSource | None = None
    """A model hub's repository at a commit."""
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    """A folder on a volume."""
    oci: OciSource | None = None
    """An OCI artefact by digest."""
    s3: S3Source | None = None
    """Objects in an S3-compatible store, by digest."""
    synthetic: SyntheticSource | None = None
    """A checkpoint that Sartor makes itself."""

    rules = (exactly_one("huggingFace", "persistentVolumeClaim", "oci", "s3", "synthetic", noun="source of the model"),)


class Model(ApiModel):
    """The model that is served."""

    source: ModelSource
    """Where its weights come from."""
    dtype: DType = "bfloat16"
    """Type in which the weights are served, by the baseline and by the stack."""
    weight_quantization: Literal["none", "int8", "fp8"] = "none"
    """Weights kept in fewer bits, on both sides. Other than `none` changes what the model says: the reference of the
    correctness gate is then the quantised model."""
    served_name: Annotated[str, Pattern(r"[\w.:/-]+", "a model name", 256)] | None = None
    """Name under `/v1/models` and in requests; by default the name of the synthesis."""

    rules = (
        Rule(
            cel="self.weightQuantization != 'fp8' || self.dtype != 'float32'",
            message="weightQuantization fp8 needs dtype bfloat16 or float16; change one of the two",
            holds=lambda model: model.weight_quantization != "fp8" or model.dtype != "float32",
            field=".dtype",
        ),
    )
