"""`HREOptimizer`: any torch optimizer, made federated by wrapping it."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import (
    Any,
    Concatenate,
    Final,
    Literal,
    NoReturn,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from hre_torch.encoding.fixed_point import Rounding
from hre_torch.errors import (
    AloneWarning,
    BackPressure,
    LayoutError,
    NonFiniteError,
    UnsupportedError,
)
from hre_torch.optim.arrangement import arranged, require_frozen
from hre_torch.optim.exchange import Exchange
from hre_torch.optim.flatten import FlatView
from hre_torch.optim.guards import (
    InnerStep,
    NonFiniteGradientError,
    is_partial,
    members,
    require_known,
    warn_if_unstable,
)
from hre_torch.optim.privacy import GaussianNoise
from hre_torch.optim.progress import Finish, Progress
from hre_torch.optim.replicas import (
    Follower,
    Replicas,
    copied_state,
    kept_alike,
    refuse_sharded,
)
from hre_torch.optim.settings import (
    Every,
    Pacing,
    check_choice,
    check_kinds,
    check_numbers,
    intervals,
)
from hre_torch.optim.staleness import Constant, StalenessWeight
from hre_torch.participant.participant import Opened
from hre_torch.participant.session import Session
from hre_torch.protocol.task_options import Buffers

__all__ = ["STATE_KEY", "HREOptimizer", "without_local"]

_BETWEEN_PULLS: Final = 0.05
"""Seconds from one look for the last releases to the next."""

P = ParamSpec("P")
T = TypeVar("T")

STATE_KEY: Final = "hre_torch"
"""Of our own part in an optimizer's saved state."""


def without_local(state: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state of an `HREOptimizer` as if it had pushed everything."""
    if STATE_KEY not in state:
        return state
    ours = state[STATE_KEY]
    zeros = {name: torch.zeros_like(ours[name]) for name in ("local", "local_before")}
    progress = ours["progress"] | {"since_push": 0}
    kept = {name: value for name, value in ours.items() if name != "pushes"}
    return state | {STATE_KEY: kept | zeros | {"progress": progress}}


def _led(
    method: Callable[Concatenate[HREOptimizer, P], T],
) -> Callable[Concatenate[HREOptimizer, P], T]:
    """Have a method's followers take what it does to the parameters."""

    @functools.wraps(method)
    def lead(self: HREOptimizer, /, *arguments: P.args, **keywords: P.kwargs) -> T:
        with self._replicas.together():
            return method(self, *arguments, **keywords)

    return lead


class HREOptimizer(Optimizer):
    """Trains with `inner`, and exchanges encrypted updates through `session`.

    A true `torch.optim.Optimizer`: parameter groups and state are the inner optimizer's
    own, so schedulers, hooks, closures, `GradScaler` and checkpoints work as before.
    The constructor loads the task's weights into the parameters. Then each `step`

    1. *descends*: the inner optimizer steps, unless a gradient is NaN or infinite; such
       a step is left out, counted, and warned about once. A call at which Opacus's
       wrapper leaves its own optimizer out is no step;
    2. *pushes* if `push_every` steps were made since the last push: all that changed in
       the parameters is clipped, weighted by staleness, quantised and handed to the
       session; what rounding left over goes with the next push. If too much of our own
       is unreleased (`BackPressure`), nothing is lost: the next step tries again;
    3. *pulls* if `pull_every` steps were made since the last pull: new releases are
       opened and added to the parameters.

    Between steps the parameters are the released weights, plus all own updates that are
    not yet released, plus what is not yet pushed. Nothing else may change them then,
    unless it puts them back before the next step, as an evaluation of averaged weights
    does: see `outside_changes`, `adopt_weights` and `restore`.

    A session serves one optimizer. When it is wrapped again, steps that the earlier
    optimizer did not push go on in the new one.

    Processes of a `torch.distributed` group that train one model together (DDP) are one
    participant: one of them passes the session, all others None, and get a `Follower`.
    All call the same methods, each of which waits for the others.

    Args:
        inner: the optimizer that computes the steps.
        session: what `Federation.join` or `connect` returned; None for a follower.
        module: the model. Needed for `buffers="mean"`, and whenever the parameter
            groups do not list all trainable parameters in the order of the model.
        push_every, pull_every: local steps from one to the next, >= 1; 1 if left out,
            or what `hre-torch run` was told. `push_every="auto"` stands for both: so
            often that exchanges take at most `exchange_share` of the time, as this
            training's own clock has it; see `Pacing`.
        exchange_share: in (0, 1).
        clip: L2 bound of an update's parameters, at most the task's, which holds if it
            is left out. Longer updates are shortened to it, also in this model.
        error_feedback: keep what quantisation left over; if not, it is dropped.
        buffers: `"mean"` averages the module's floating-point buffers, `"local"` not;
            what the task says if it is left out.
        rounding: rule of the quantiser; to the nearest if left out.
        staleness_weight: weight of an update of a given staleness, in (0, 1].
        noise: differential privacy of this participant; none if left out.
        samples: how many this participant trains on, where the task weights updates.
        outside_changes: what becomes of parameters that something else changes from
            one step to the next: `"refuse"` raises at the next step, `"push"` counts
            the change as training, for scripts that clip weights after a step, say.

    Attributes:
        inner, session: as given.
        progress: what was counted so far.

    Raises:
        LayoutError: the parameters are not those the task was made for.
        UnsupportedError: a setting or a parameter cannot work; the message names it.

    References:
        F. Tang et al., "Privacy-Preserving Distributed Deep Learning via Homomorphic
        Re-Encryption", Electronics 8(4):411, 2019.
    """

    def __new__(  # type: ignore[misc]
        cls, inner: Optimizer, session: Session | None = None, **settings: Any
    ) -> HREOptimizer | Follower:
        """Return a follower where another process has the session."""
        refuse_sharded(inner, settings.get("module"))
        if session is not None or not isinstance(inner, Optimizer):
            return super().__new__(cls)
        return Follower(inner, settings.get("module"))

    def __init__(
        self,
        inner: Optimizer,
        session: Session | None,
        *,
        module: nn.Module | None = None,
        push_every: Every | None = None,
        pull_every: int | None = None,
        exchange_share: float = 0.2,
        clip: float | None = None,
        error_feedback: bool = True,
        buffers: Buffers | None = None,
        rounding: Rounding | None = None,
        staleness_weight: StalenessWeight | None = None,
        noise: GaussianNoise | None = None,
        samples: int | None = None,
        outside_changes: Literal["refuse", "push"] = "refuse",
    ) -> None:
        if not isinstance(inner, Optimizer) or isinstance(inner, HREOptimizer):
            raise UnsupportedError(
                f"HREOptimizer wraps a torch optimizer, not {type(inner).__name__}; "
                "write HREOptimizer(torch.optim.SGD(model.parameters()), session)."
            )
        averaged = isinstance(session, Session) and session.task.config.n_buffers > 0
        buffers = buffers or ("mean" if averaged else "local")
        self._replicas = Replicas(
            lambda averaged: kept_alike(inner, module, averaged=averaged),
            leads=True,
            averaged=buffers == "mean",
        )
        session = cast(Session, session)  # None has become a Follower.
        with self._replicas.together():
            check_kinds(
                session,
                module=module,
                rounding=rounding,
                staleness_weight=staleness_weight,
                noise=noise,
            )
            every = intervals(push_every, pull_every, session.defaults)
            bound = session.task.config.clip
            check_numbers(exchange_share, clip, bound)
            check_choice("outside_changes", outside_changes, ("refuse", "push"))
            super().__init__(inner.param_groups, inner.defaults)
            self.inner = inner
            self.session = session
            self.progress = Progress()
            self._inner_step = InnerStep(inner, self._replicas.all_finite)
            self._share_containers()
            self._module, self._buffers = module, buffers
            self._pacing = Pacing(*every, exchange_share)
            self._exchange_with = functools.partial(
                Exchange,
                session,
                guard=outside_changes == "refuse",
                clip=bound if clip is None else clip,
                error_feedback=error_feedback,
                rounding=rounding,
                staleness_weight=staleness_weight or Constant(),
                noise=noise,
                samples=samples,
            )
            self._exchange: Exchange | None = None
            self._release_hooks: dict[int, Callable[[Opened], None]] = OrderedDict()
            self._finished = False
            session.optimizer = self
            _STARTED.add(self)
            self._attach_if_complete()
            self._require_all_where_several()
            warn_if_unstable(session.task, inner, every[0])

    @property
    def push_every(self) -> int:
        """Local steps from one push to the next, at present."""
        return self._pacing.push_every

    @property
    def stepping(self) -> bool:
        """Whether the inner optimizer is stepping right now."""
        return self._inner_step.running

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and whatever else the inner optimizer gathers."""
        self.inner.zero_grad(set_to_none)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one local step; push and pull if they are due.

        Returns what the inner optimizer returns: the closure's loss, if there is one.

        Raises:
            LayoutError: a trained parameter is not part of the task.
            OutsideChangeError: something else has changed the parameters.
            AggregatorError: no server answers; the local step is made, and the exchange
                is due again at the next one.
        """
        # Messages are no arithmetic that could be compiled. The optimizer's own class
        # has imported the compiler by now.
        undisturbed: Callable[..., float | None]
        undisturbed = torch.compiler.disable(self._step)  # type: ignore[no-untyped-call]
        return undisturbed(closure)

    def _marks(self) -> tuple[object, ...]:
        """Return what differs after a step that moved this process's model alone.

        A push writes its rounding, a pull what was released, a skipped step the last
        finite model, the first step perhaps the task's weights.
        """
        session, skipped = self.session, self.progress.skipped_steps
        pulls = session.statistics.pulls
        return session.pushed, pulls, skipped, self._exchange is None

    def _step(self, closure: Callable[[], float] | None) -> float | None:
        with self._replicas.together(self._marks):
            return self._stepped(closure, self._require())

    def _stepped(
        self, closure: Callable[[], float] | None, exchange: Exchange
    ) -> float | None:
        with exchange.model.stepping():
            try:
                loss = self._inner_step(closure, exchange.view)
            except NonFiniteGradientError as stopped:
                self.progress.skip(str(stopped))
                exchange.recover()
                return stopped.loss
            if not self._inner_step.made:
                return loss
            self._count_step(exchange)
            self._pacing.begin()
            try:
                self._push_if_due()
                pulled = self._pull_if_due()
            except NonFiniteError as error:
                self.progress.skip(str(error))
            else:
                self._pacing.end(exchanged=pulled)
        return loss

    def _count_step(self, exchange: Exchange) -> None:
        self._finished = False
        self.progress.count()
        exchange.model.steps = self.progress.since_push

    def _push_if_due(self) -> None:
        if self.progress.since_push >= self._pacing.push_every:
            try:
                self.push()
            except BackPressure:
                self.progress.hold_back(self.session)

    def _pull_if_due(self) -> bool:
        due = self.progress.since_pull >= self._pacing.pull_every
        if due:
            self.pull()
        return due

    @_led
    def push(self) -> int:
        """Push what the session does not know yet; return the sequence number.

        Raises:
            BackPressure: too much is unreleased already; nothing was sent or changed.
            NonFiniteError: a parameter is NaN or infinite; all were put back.
            OutsideChangeError: something else has changed the parameters.
        """
        exchange = self._require()
        sequence = exchange.push()
        self.progress.push(exchange.saturated, exchange.view.n_values)
        self.progress.clipped += exchange.clipped
        self.progress.update_norm = exchange.norm
        exchange.model.steps = 0
        return sequence

    @_led
    def pull(self) -> list[Opened]:
        """Pull now; return what was opened, oldest first.

        Raises:
            NonFiniteError, OutsideChangeError: as for `push`.
        """
        return self._pulled(self._require().pull())

    @_led
    def catch_up(self) -> list[Opened]:
        """Pull now, and wait for everything that there is; else as `pull`."""
        return self._pulled(self._require().catch_up())

    def _pulled(self, opened: list[Opened]) -> list[Opened]:
        self.progress.pull(len(opened), self.session)
        for hook in list(self._release_hooks.values()):
            for each in opened:
                hook(each)
        return opened

    @_led
    def flush(self) -> None:
        """Push what is left, unless it rounds to zero; see `finish` for the end.

        Raises:
            BackPressure, NonFiniteError, OutsideChangeError: as for `push`.
            AggregatorError: no acknowledgement came, perhaps of an earlier push.
        """
        self._finished = True
        self._require().settle()
        if not self._require().idle():
            self.push()

    @_led
    def finish(self, timeout: float = 60.0) -> Finish:
        """End a training: push the rest, wait for its release, learn the newest.

        Waits while other participants may still push, as far as that can be told. Warns
        of what was not released by then.

        Args:
            timeout: seconds to wait at most, >= 0.

        Raises:
            NonFiniteError, OutsideChangeError: as for `push`.
            AggregatorError: no server answers.
        """
        deadline = time.monotonic() + timeout
        self._finished = True
        while True:
            # Asked first: what others pushed last is pulled below.
            waits = self.session.others_may_push() and time.monotonic() < deadline
            self.catch_up()
            with contextlib.suppress(BackPressure):
                self.flush()
            self.catch_up()
            finish = Finish(
                version=self.session.version,
                pending=self.session.pending,
                unpushed=not self._require().idle(),
            )
            if not waits or not (finish.pending or finish.unpushed):
                break
            time.sleep(_BETWEEN_PULLS)
        if self.session.keep is not None:
            self.session.keep()
        finish.tell(self.session)
        return finish

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Show the released weights in the model inside the block.

        They are what everybody has: without own updates that wait for a release, and
        without steps that were not pushed. All of it comes back afterwards.

        Raises:
            UnsupportedError: inside the block, of everything that trains or exchanges.
        """
        with contextlib.ExitStack() as shown:
            with self._replicas.together():
                shown.enter_context(self._require().showing_released())
            yield
        with self._replicas.together():
            pass  # The others get the weights back that were exchanged.

    def released_state_dict(self, module: nn.Module) -> dict[str, Any]:
        """Return a copy of the model's `state_dict` with the released weights.

        Args:
            module: the model that this optimizer trains; buffers that are not averaged
                are its own.
        """
        with self.released():
            return copied_state(module)

    def register_release_hook(self, hook: Callable[[Opened], None]) -> RemovableHandle:
        """Have a function called with every release that a pull brings.

        Args:
            hook: is given what was opened, after the parameters have it.

        Returns:
            What removes the hook again by `remove()`.
        """
        handle = RemovableHandle(self._release_hooks)
        self._release_hooks[handle.id] = hook
        return handle

    def require_untouched(self) -> None:
        """Check that nothing else has changed the parameters since the last step.

        `step`, `push` and `pull` do so by themselves.

        Raises:
            OutsideChangeError: something has; never if `outside_changes` is `"push"`.
        """
        self._require().model.require_untouched()

    @_led
    def adopt_weights(self) -> None:
        """Make the model's present weights part of the next update.

        For weights that a script has loaded or changed on purpose. Warns by how much
        they differ from what this optimizer left, since everybody will get that.

        Raises:
            NonFiniteError: a parameter is NaN or infinite; all were put back.
        """
        self._require().adopt()

    @_led
    def restore(self) -> None:
        """Show the session's weights plus what is not yet pushed again."""
        self._require().restore()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the inner optimizer, before the first step.

        Raises:
            LayoutError: training has begun, or the task lacks one of the parameters.
        """
        if "inner" not in self.__dict__:
            # Optimizer.__init__ registers the groups that the inner optimizer has.
            super().add_param_group(param_group)
            return
        if self.progress.local_steps:
            raise LayoutError(
                "add_param_group came after the first step, when a task's parameters "
                "are settled; add the group before, or make a new federation."
            )
        param_group = {**param_group, "params": members(param_group)}
        if self._exchange is not None:
            require_known([param_group], self._exchange.view)
        self.inner.add_param_group(param_group)
        self._attach_if_complete()

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state, and under `"hre_torch"` our own.

        Ours is what is not pushed yet, in the clear as the parameters are, and the
        counters. No key is in it, nor anything of another participant.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state: dict[str, Any] = dict(self.inner.state_dict())
        if self._exchange is not None:
            progress = dataclasses.asdict(self.progress)
            state[STATE_KEY] = {
                "progress": progress,
                "pacing": self._pacing.state_dict(),
                **self._exchange.state_dict(),
            }
        for after in self._optimizer_state_dict_post_hooks.values():
            state = after(self, state) or state
        if self.session.keep is not None:
            self.session.keep()
        return state

    @_led
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, or the state of the inner optimizer alone.

        With ours, the parameters become the session's weights plus what was not yet
        pushed, whatever the module had loaded before. A state that this training is in
        already moves nothing.

        Raises:
            CheckpointError: the state is of another task, and the session's weights are
                not the model's; or the session has pushed since it was written.
            LayoutError: the state belongs to a model of another size.
        """
        state_dict = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = before(self, state_dict) or state_dict
        ours = state_dict.pop(STATE_KEY, None)
        if ours is not None and not self._require().is_current(ours):
            ours = without_local({STATE_KEY: ours})[STATE_KEY]
        self.inner.load_state_dict(state_dict)
        self._share_containers()
        if ours is not None:
            self._require().load_state_dict(ours)
            self.progress = Progress(**ours["progress"])
            self._pacing.load_state_dict(ours["pacing"])
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> NoReturn:
        raise UnsupportedError(
            "An HREOptimizer cannot be copied or pickled: its session holds keys. Save "
            "state_dict(), and load it into one made with the same session."
        )

    def _share_containers(self) -> None:
        # The very same objects: what schedulers and add_param_group change here must
        # reach the inner optimizer. Loading a state replaces them.
        self.param_groups = self.inner.param_groups
        self.state = self.inner.state

    def _attach_if_complete(self) -> None:
        # Without a module, groups may be added until the first step asks for all.
        config = self.session.task.config
        if self._module is not None or not is_partial(self.param_groups, config):
            self._require()

    def _require_all_where_several(self) -> None:
        # What is not in the groups would not be sent to the other processes.
        if self._replicas.size > 1 and self._exchange is None:
            raise LayoutError(
                "The parameter groups do not list all that the task trains; in a group "
                "of processes, pass the model as module=model on each of them."
            )

    def _require(self) -> Exchange:
        if self._exchange is None:
            config = self.session.task.config
            module = self._module or self.session.module
            tensors = arranged(
                self.param_groups,
                config,
                module=module,
                founder=self.session.founder,
                buffers=self._buffers,
            )
            if module is not None:
                require_frozen(module, config)
            view = FlatView(tensors)
            require_known(self.param_groups, view)
            self._exchange = self._exchange_with(view)
            self.progress.since_push = self._exchange.model.steps
        return self._exchange

    def _tell_if_forgotten(self) -> None:
        """Warn at the exit of the program of what nobody else has."""
        if self._finished or self.session.closed:
            return
        if self.progress.since_push or self.session.pending:
            warnings.warn(
                f"The program ends, and {self.session.name!r} has not finished: local "
                f"steps since the last push: {self.progress.since_push}, updates not "
                f"released: {self.session.pending}. Call optimizer.finish() at the end "
                "of the training.",
                AloneWarning,
                stacklevel=1,
            )


_STARTED: Final[weakref.WeakSet[HREOptimizer]] = weakref.WeakSet()


@atexit.register
def _tell_who_forgot() -> None:
    for optimizer in _STARTED:
        optimizer._tell_if_forgotten()
