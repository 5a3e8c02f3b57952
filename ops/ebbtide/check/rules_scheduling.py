"""Rules about batchers, queues and instances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tritonclient.grpc import model_config_pb2

from ebbtide.check import backends
from ebbtide.check.findings import Finding
from ebbtide.check.messages import InstanceGroup, QueuePolicy
from ebbtide.check.textproto import Key, Path
from ebbtide.check.view import View

_KIND_AUTO = int(model_config_pb2.ModelInstanceGroup.KIND_AUTO)
_KIND_GPU = int(model_config_pb2.ModelInstanceGroup.KIND_GPU)
_DELAY = int(model_config_pb2.ModelQueuePolicy.DELAY)


def check(view: View) -> Iterator[Finding]:
    """Checks the batcher, the queues and the instances of a model."""
    if view.config.HasField("dynamic_batching"):
        yield from _dynamic_batching(view)
    yield from _ragged(view)
    # An ensemble may not have instances at all: rules_ensemble reports them.
    if not view.is_ensemble:
        yield from _instances(view)
        yield from _resources(view)


def preferred_sizes(view: View, path: Path, sizes: Sequence[int]) -> Iterator[Finding]:
    """Checks the preferred batch sizes of the dynamic batcher or the sequence batcher."""
    largest = view.config.max_batch_size
    for index, size in enumerate(sizes):
        if not 1 <= size <= largest:
            yield view.finding(
                "preferred-batch-size",
                (*path, "preferred_batch_size", index),
                f"got {size}; expected 1 to {largest} (max_batch_size)",
                "lower the size, or raise `max_batch_size`",
            )


def _dynamic_batching(view: View) -> Iterator[Finding]:
    batching = view.config.dynamic_batching
    location = ("dynamic_batching",)
    yield from preferred_sizes(view, location, batching.preferred_batch_size)
    if view.config.max_batch_size == 0 and not batching.preferred_batch_size and _is_written_out(view):
        yield view.finding(
            "batcher-without-batching",
            location,
            "got `dynamic_batching` with max_batch_size 0; expected 1 or more: without it, nothing is batched",
            "write `max_batch_size`, or remove `dynamic_batching`",
        )
    levels = batching.priority_levels
    if levels:
        if not 1 <= batching.default_priority_level <= levels:
            written = (*location, "default_priority_level")
            yield view.finding(
                "queue-priority",
                written if view.source.index.has(written) else (*location, "priority_levels"),
                f"got default level {batching.default_priority_level}; expected 1 to {levels} (priority_levels)",
                "write `default_priority_level`, the level of requests without a priority",
            )
        for level in batching.priority_queue_policy:
            if not 1 <= level <= levels:
                yield view.finding(
                    "queue-priority",
                    (*location, "priority_queue_policy", Key(str(level))),
                    f"got a policy for level {level}; expected 1 to {levels} (priority_levels)",
                    "raise `priority_levels`, or change the key",
                )
    elif batching.priority_queue_policy:
        yield view.finding(
            "queue-policy-ignored",
            (*location, "priority_queue_policy"),
            "got `priority_queue_policy` without `priority_levels`; expected both fields or neither",
            "write `priority_levels` and `default_priority_level`, or use `default_queue_policy`",
        )
    if batching.preserve_ordering:
        yield from _ordering(view, location, levels)


def _ordering(view: View, location: Path, levels: int) -> Iterator[Finding]:
    batching = view.config.dynamic_batching
    if levels > 1:
        yield view.finding(
            "preserve-ordering",
            (*location, "preserve_ordering"),
            f"got `preserve_ordering` with {levels} priority levels; expected at most 1 level",
            "remove `preserve_ordering` or `priority_levels`",
        )
    delaying: list[tuple[Path, QueuePolicy]] = [((*location, "default_queue_policy"), batching.default_queue_policy)]
    delaying += [
        ((*location, "priority_queue_policy", Key(str(level))), policy)
        for level, policy in batching.priority_queue_policy.items()
    ]
    for path, policy in delaying:
        if policy.default_timeout_microseconds and policy.timeout_action == _DELAY:
            yield view.finding(
                "preserve-ordering",
                path,
                "got timeout_action DELAY with `preserve_ordering`; expected REJECT",
                "write `timeout_action: REJECT`, or remove `preserve_ordering`",
            )


def _is_written_out(view: View) -> bool:
    """Whether the backend uses `max_batch_size: 0` as it is, instead of filling in another value."""
    fills_in = view.serving.backend in backends.FILLS_IN_TENSORS
    return bool(view.config.input and view.config.output) or not fills_in


def _ragged(view: View) -> Iterator[Finding]:
    config = view.config
    if config.HasField("dynamic_batching") or config.HasField("sequence_batching") or view.is_ensemble:
        return
    for index, tensor in enumerate(config.input):
        if tensor.allow_ragged_batch:
            yield view.finding(
                "ragged-without-batcher",
                ("input", index, "allow_ragged_batch"),
                f"got `allow_ragged_batch` for {tensor.name!r} without a batcher; expected `dynamic_batching`",
                "write `dynamic_batching { }`; without it, every request runs alone",
            )


def _instances(view: View) -> Iterator[Finding]:
    groups = view.config.instance_group
    for index, group in enumerate(groups):
        yield from _instance(view, ("instance_group", index), group)
    if groups and all(group.passive for group in groups):
        yield view.finding(
            "instance-group-passive",
            ("instance_group", 0, "passive"),
            "got only passive instances; expected an active one: the first request stops the server",
            "remove `passive`, or add an instance group without it",
        )


def _instance(view: View, location: Path, group: InstanceGroup) -> Iterator[Finding]:
    kinds = model_config_pb2.ModelInstanceGroup.Kind
    if group.kind not in kinds.values():
        yield view.finding(
            "config-unknown-value",
            (*location, "kind"),
            f"got {group.kind}; expected {', '.join(kinds.keys())}",
            "write the kind by its name",
        )
    elif group.gpus and group.kind not in (_KIND_GPU, _KIND_AUTO):
        kind = model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)
        yield view.finding(
            "instance-group-gpus",
            (*location, "gpus"),
            f"got gpus {list(group.gpus)} with {kind}; expected KIND_GPU",
            "write `kind: KIND_GPU`, or remove `gpus`",
        )
    if any(gpu < 0 for gpu in group.gpus):
        yield view.finding(
            "instance-group-gpus",
            (*location, "gpus"),
            f"got gpus {list(group.gpus)}; expected ids of at least 0",
            "write the ids that `nvidia-smi` lists",
        )
    if view.source.index.has((*location, "count")) and group.count < 1:
        yield view.finding(
            "instance-group-count",
            (*location, "count"),
            f"got {group.count}; expected at least 1: Triton uses its default instead",
            "write the number of instances",
        )
    if group.profile and view.serving.platform != backends.TENSORRT_PLATFORM:
        yield view.finding(
            "instance-group-profile",
            (*location, "profile"),
            f"got profile {list(group.profile)} on {view.serving.backend or 'no backend'}; expected TensorRT",
            "remove `profile`",
        )


def _resources(view: View) -> Iterator[Finding]:
    seen: dict[str, bool] = {}
    for index, group in enumerate(view.config.instance_group):
        for position, resource in enumerate(group.rate_limiter.resources):
            is_global = bool(getattr(resource, "global"))
            if seen.setdefault(resource.name, is_global) != is_global:
                yield view.finding(
                    "rate-limiter-resource",
                    ("instance_group", index, "rate_limiter", "resources", position),
                    f"got {resource.name!r} both global and per device; expected only one of the two",
                    "rename one of them; a server with --rate-limit=execution_count refuses the model",
                )
