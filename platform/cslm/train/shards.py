"""The training state of a rank as fragments: which stretch of which parameter it holds, master weights and states.

DeepSpeed lays the state out differently under every ZeRO stage and world size. Here it has one form: for a parameter,
by its Hugging Face name, views of what this rank holds of its fp32 master values and of its optimizer states. Views
are read to save and written to restore, so a state saved under one layout can be read under any other. DeepSpeed is
not imported: its optimizers are told apart by what they carry.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist

from cslm.errors import CheckpointError

MASTER = "master"
# States that are not the optimizer's: a running average of the weights. Where none was saved it begins at the weights.
AVERAGE = "average"
EXTRAS = (AVERAGE,)
_MOMENTUM = "momentum_buffer"
_SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
_COUNTERS = ("global_steps", "global_samples", "skipped_steps")


@dataclass(frozen=True)
class Fragment:
    """`values` [length] of the flattened parameter `name` from `start` on: its master values or a state, by `key`.

    `replicated`: every rank holds the same, so that they may share the writing.
    """

    name: str
    key: str
    start: int
    values: torch.Tensor
    replicated: bool


@dataclass(frozen=True)
class Place:
    """`length` values of a parameter from `start` on lie at `offset` of a flat tensor."""

    name: str
    start: int
    length: int
    offset: int


@dataclass
class Part:
    """A tensor that the optimizer steps on, with its states and the parameters that lie in it.

    `momentum`: where whole matrices lie in Muon's momentum, under the stages that keep it apart from the masters.
    """

    master: torch.Tensor
    state: MutableMapping[Any, dict[str, Any]]
    places: Sequence[Place]
    replicated: bool = False
    momentum: Sequence[Place] = ()
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    load: Callable[[], None] = lambda: None
    release: Callable[[bool], None] = lambda changed: None

    @contextmanager
    def resident(self, *, write: bool) -> Iterator[None]:
        """In memory as long as the block lasts, where states live on disk; `write` keeps what is changed."""
        self.load()
        yield
        self.release(write)

    @property
    def states(self) -> dict[str, Any]:
        """What the optimizer keeps for the master; empty before its first step."""
        return self.state.get(self.master, {})

    def fragments(self) -> Iterator[Fragment]:
        """Views of all that this part holds; only inside `resident`."""
        for key, tensor in {MASTER: self.master, **self.states, **self.extra}.items():
            if not torch.is_tensor(tensor) or tensor.dim() == 0:
                continue
            flat = tensor.detach().view(-1)
            for place in self._layout(key, flat):
                values = flat.narrow(0, place.offset, place.length)
                yield Fragment(place.name, key, place.start, values, self.replicated)

    def scalars(self) -> dict[str, float]:
        """States that are one number, such as Adam's step."""
        numbers = {key: value for key, value in self.states.items() if not torch.is_tensor(value) or value.dim() == 0}
        return {key: float(value) for key, value in numbers.items()}

    def allocate(self, key: str) -> None:
        """Make a state that the optimizer would make at its first step."""
        if key in self.states or key in self.extra:
            return
        size = sum(place.length for place in self.momentum) if key == _MOMENTUM else 0
        made = self.master.new_zeros(size) if size else torch.zeros_like(self.master.detach())
        self.state.setdefault(self.master, {})[key] = made

    def set_scalar(self, key: str, value: float, *, as_tensor: torch.device | None) -> None:
        """Set a state that is one number, in the form that the optimizer counts in: a tensor on a device, or plain."""
        states = self.state.setdefault(self.master, {})
        known = states.get(key)
        if torch.is_tensor(known):
            known.fill_(value)
        else:
            states[key] = torch.tensor(value, dtype=torch.float32, device=as_tensor) if as_tensor else int(value)

    def _layout(self, key: str, flat: torch.Tensor) -> Sequence[Place]:
        if flat.numel() == self.master.numel() and not (key == _MOMENTUM and self.momentum):
            return self.places
        assert key == _MOMENTUM, f"a state must have the size of its master or one value, found {key}"
        return self.momentum


class Reader(Protocol):
    """Where a restore reads from."""

    def states_of(self, name: str) -> set[str]:
        """Keys of the states that were saved for a parameter, its master among them."""

    def scalars_of(self, name: str) -> dict[str, float]:
        """States of a parameter that are one number."""

    def read(self, name: str, key: str, start: int, values: torch.Tensor) -> None:
        """Fill `values` [length] with what was saved of a parameter from `start` on."""


class TrainingState:
    """What this rank of a DeepSpeed engine holds of the training state."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._optimizer = engine, engine.optimizer
        names = {id(parameter): name.removeprefix("lm.") for name, parameter in engine.module.named_parameters()}
        self._names, self.parts = names, _parts(self._optimizer, names)
        self._decay: float | None = None

    def scalars(self) -> dict[str, dict[str, float]]:
        """For each parameter that this rank holds of, its states that are one number."""
        return {place.name: part.scalars() for part in self.parts for place in part.places}

    def counters(self) -> dict[str, float]:
        """Counters of engine and loss scaler, the same on every rank."""
        scaler = self._scaler()
        found = {key: getattr(self._engine, key, None) for key in _COUNTERS}
        found |= {key: getattr(scaler, key, None) for key in _SCALER_STATE if scaler is not None}
        return {key: value for key, value in found.items() if isinstance(value, int | float)}

    @torch.no_grad()
    def start_average(self, decay: float) -> None:
        """Keep a running average of the master weights from now on, in what is saved and restored: 4 bytes a value."""
        self._decay = decay
        for part in self.parts:
            with part.resident(write=False):
                part.extra[AVERAGE] = part.master.detach().clone()

    @torch.no_grad()
    def advance_average(self) -> None:
        """Take the masters after a step into the average, if one is kept."""
        if self._decay is None:
            return
        # In the first steps the average follows closely: the weights that training begins with say little.
        step = int(self._engine.global_steps)
        decay = min(self._decay, (1 + step) / (10 + step))
        for part in self.parts:
            with part.resident(write=False):
                part.extra[AVERAGE].lerp_(part.master.detach(), 1 - decay)

    @torch.no_grad()
    def average_of(self, parameter: torch.nn.Parameter) -> torch.Tensor:
        """The average of a whole parameter, on the first rank; all ranks must call. One not trained is as it is."""
        if not parameter.requires_grad:
            return parameter.detach()
        whole = torch.zeros(parameter.numel(), device=parameter.device)
        for part in self.parts:
            for place in part.places:
                if place.name == self._names[id(parameter)] and (not part.replicated or dist.get_rank() == 0):
                    held = part.extra[AVERAGE].view(-1)[place.offset : place.offset + place.length]
                    whole[place.start : place.start + place.length] = held.to(whole.device)
        dist.reduce(whole, 0)
        return whole.view(parameter.shape)

    @torch.no_grad()
    def restore(self, reader: Reader, counters: dict[str, float]) -> None:
        """Fill the state from a reader and renew the weights that the model computes with; all ranks must call.

        Raises CheckpointError when a parameter is not in what was saved.
        """
        basic = getattr(self._optimizer, "optimizer", self._optimizer)
        basic = getattr(basic, "aux_optimizer", None) or basic  # what steps beside Muon
        for part in self.parts:
            with part.resident(write=True):
                self._restore_part(part, reader, _counts_on(basic, part.master))
        for key in _COUNTERS:
            if key in counters:
                setattr(self._engine, key, int(counters[key]))
        scaler = self._scaler()
        for key in _SCALER_STATE:
            if key in counters and hasattr(scaler, key):
                setattr(scaler, key, counters[key])
        _refresh(self._optimizer)

    def _restore_part(self, part: Part, reader: Reader, as_tensor: torch.device | None) -> None:
        # Moments that do not exist yet are made; those that were made and are not saved begin at zero again.
        for key in {key for place in part.places for key in reader.states_of(place.name)} - {MASTER}:
            if key not in EXTRAS:
                part.allocate(key)
        for place in part.places[:1]:
            for key, value in reader.scalars_of(place.name).items():
                part.set_scalar(key, value, as_tensor=as_tensor)
        for fragment in part.fragments():
            if not fragment.values.numel():
                continue
            saved = reader.states_of(fragment.name)
            if fragment.key in saved:
                reader.read(fragment.name, fragment.key, fragment.start, fragment.values)
            elif fragment.key in EXTRAS:
                reader.read(fragment.name, MASTER, fragment.start, fragment.values)
            elif fragment.key == MASTER:
                raise CheckpointError(
                    f"a checkpoint must hold every parameter that is trained, found none of {fragment.name}: it was "
                    "made for another model or another choice of trained parameters; give another output.path"
                )
            else:
                fragment.values.zero_()

    def _scaler(self) -> Any:
        return getattr(self._optimizer, "loss_scaler", None) or getattr(self._optimizer, "loss_scale_config", None)


def _counts_on(optimizer: Any, master: torch.Tensor) -> torch.device | None:
    """Where PyTorch's Adam counts its steps: beside the weights when it is fused, else on the CPU. None: others."""
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return None
    beside = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
    return master.device if beside else torch.device("cpu")


def _parts(optimizer: Any, names: dict[int, str]) -> list[Part]:
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return _stage_3(optimizer, names)
    for groups, masters in (
        ("bit16_groups", "single_partition_of_fp32_groups"),
        ("bf16_groups", "fp32_groups_flat_partition"),
    ):
        if hasattr(optimizer, masters):
            return _stages_1_and_2(optimizer, getattr(optimizer, groups), getattr(optimizer, masters), names)
    if hasattr(optimizer, "fp32_groups_flat"):
        pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups_flat, strict=True)
        return [Part(flat, optimizer.optimizer.state, _in_turn(group, names), True) for group, flat in pairs]
    if hasattr(optimizer, "fp32_groups"):
        groups_of_pairs = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
        both = [pair for groups in groups_of_pairs for pair in zip(*groups, strict=True)]
        return [Part(master, optimizer.optimizer.state, _in_turn([own], names), True) for own, master in both]
    owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [Part(parameter, optimizer.state, _in_turn([parameter], names), True) for parameter in owned]


def _in_turn(parameters: Sequence[torch.nn.Parameter], names: dict[int, str]) -> list[Place]:
    """Whole parameters, one behind the other."""
    places, offset = [], 0
    for parameter in parameters:
        places.append(Place(names[id(parameter)], 0, parameter.numel(), offset))
        offset += parameter.numel()
    return places


def _stage_3(optimizer: Any, names: dict[int, str]) -> list[Part]:
    parts = []
    for index, group in enumerate(optimizer.fp16_groups):
        places, offset = [], 0
        for parameter in group:
            # Every rank has a slice of the same size; the last ones reach past the parameter's end.
            size = int(parameter.partition_numel())
            start = optimizer._get_param_partition_rank(parameter) * size
            length = max(0, min(size, int(parameter.ds_numel) - start))
            places.append(Place(names[id(parameter)], start, length, offset))
            offset += size
        on_gpu = getattr(optimizer, "subgroup_to_device", {}).get(index, "cpu") != "cpu"
        stepped = optimizer.backup_optimizer if on_gpu else optimizer.optimizer
        part = Part(optimizer.fp32_partitioned_groups_flat[index], stepped.state, places)
        if optimizer._swappable_optimizer_subgroup(index):
            part.load, part.release = _swapping(optimizer, index)
        parts.append(part)
    return parts


def _swapping(optimizer: Any, index: int) -> tuple[Callable[[], None], Callable[[bool], None]]:
    """How the states of a sub-group come from NVMe and go back."""

    def load() -> None:
        optimizer._optimizer_states_and_gradient_swap_in(index)

    def release(changed: bool) -> None:
        if changed:
            optimizer._optimizer_states_and_gradient_swap_out(index)
        else:
            optimizer._release_swap_buffers(index)

    return load, release


def _stages_1_and_2(optimizer: Any, groups: Any, masters: Any, names: dict[int, str]) -> list[Part]:
    parts = []
    for index, (group, flat) in enumerate(zip(groups, masters, strict=True)):
        held = [(parameter, parameter._hp_mapping) for parameter in group if parameter._hp_mapping is not None]
        places = [
            Place(
                names[id(parameter)],
                mapping.lp_fragment_address.start,
                mapping.hp_fragment_address.numel,
                mapping.hp_fragment_address.start,
            )
            for parameter, mapping in held
        ]
        momentum: Sequence[Place] = ()
        if held and getattr(held[0][0], "use_muon", False) and hasattr(optimizer, "params_in_partition"):
            # The momentum is that of every matrix that a rank holds any part of, whole.
            momentum = _in_turn(optimizer.params_in_partition[index], names)
        parts.append(Part(flat, optimizer.optimizer.state, places, momentum=momentum))
    return parts


def _refresh(optimizer: Any) -> None:
    """Make the weights that the model computes with equal to the masters; all ranks must call."""
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        optimizer.checkpoint_event_prologue()
        for index in range(len(optimizer.fp16_groups)):
            swapped = optimizer._swappable_optimizer_subgroup(index)
            if swapped:
                optimizer._optimizer_states_and_gradient_swap_in(index)
            optimizer._reassign_or_swap_out_partitioned_parameters(index)
            if swapped:
                optimizer._release_swap_buffers(index)
        optimizer.checkpoint_event_epilogue()
    elif hasattr(optimizer, "update_lp_params"):
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_groups_flat"):
        for working, master in zip(optimizer.fp16_groups_flat, optimizer.fp32_groups_flat, strict=True):
            working.copy_(master)
    elif hasattr(optimizer, "fp32_groups"):
        for group, masters in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for working, master in zip(group, masters, strict=True):
                working.data.copy_(master.data)
