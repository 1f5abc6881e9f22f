"""Draws the next token of every row that wants one. A row is drawn from its own logits and its own random numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from plural.engine.request import Drawn, GenerateJob
from plural.errors import PluralError

# How many of the most probable tokens are sorted first; all are only when top_p asks for more than these hold.
_HEAD = 512


def log_probabilities(logits_RV: Tensor) -> Tensor:
    """Row by row; two rows at least, since torch adds up a single long row in another order."""
    if len(logits_RV) == 1:
        return torch.log_softmax(logits_RV.expand(2, -1), dim=-1)[:1]
    return torch.log_softmax(logits_RV, dim=-1)


def finite(x_TN: Tensor) -> list[bool]:
    """For every row whether all of it is finite."""
    return torch.isfinite(x_TN.sum(dim=-1)).tolist()


def draw(jobs: Sequence[GenerateJob], logits_RV: Tensor, logprobs_RV: Tensor) -> list[Drawn | PluralError]:
    """One token a job, or the error of a job whose grammar failed. The rows must be finite."""
    tokens: list[int | PluralError] = list(torch.argmax(logits_RV, dim=-1).tolist())
    for row, job in enumerate(jobs):
        if not _plain(job):
            try:
                tokens[row] = _draw_one(job, logits_RV[row])
            except PluralError as error:
                tokens[row] = error
    ids = torch.tensor([token if isinstance(token, int) else 0 for token in tokens], device=logprobs_RV.device)
    picked = logprobs_RV.gather(1, ids[:, None])[:, 0].tolist()
    return [
        Drawn(token, logprob, _top(logprobs_RV[row], job.sampling.logprobs)) if isinstance(token, int) else token
        for row, (job, token, logprob) in enumerate(zip(jobs, tokens, picked, strict=True))
    ]


def _plain(job: GenerateJob) -> bool:
    s = job.sampling
    penalties = s.repetition_penalty != 1.0 or s.presence_penalty or s.frequency_penalty
    return s.temperature == 0 and not penalties and job.grammar is None


def _top(logprobs_V: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    if count == 0:
        return ()
    values, ids = logprobs_V.topk(count)
    return tuple(zip(ids.tolist(), values.tolist(), strict=True))


def _draw_one(job: GenerateJob, logits_V: Tensor) -> int:
    token = _draw_allowed(job, logits_V)
    if job.grammar is not None:
        job.grammar.accept(token)
    return token


def _draw_allowed(job: GenerateJob, logits_V: Tensor) -> int:
    """Penalties, then grammar, then temperature, then min_p, top_k and top_p, then the request's own random number."""
    logits_V = _penalise(job, logits_V.clone())
    if job.grammar is not None:
        allowed_V = torch.from_numpy(job.grammar.allowed()).to(logits_V.device)
        logits_V.masked_fill_(~allowed_V, -torch.inf)
    if job.sampling.temperature == 0:
        return int(logits_V.argmax())
    probabilities_V = torch.softmax((logits_V - logits_V.max()) / job.sampling.temperature, dim=-1)
    values, ids = _kept(job, probabilities_V)
    cumulative = values.double().cumsum(0)
    at = int(torch.searchsorted(cumulative, job.random.random() * cumulative[-1], right=True))
    return int(ids[min(at, len(ids) - 1)])


def _penalise(job: GenerateJob, logits_V: Tensor) -> Tensor:
    s = job.sampling
    if s.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(job.tokens)), device=logits_V.device)
        values = logits_V[seen]
        logits_V[seen] = torch.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
    if (s.presence_penalty or s.frequency_penalty) and job.output:
        counts = Counter(job.output)
        ids = torch.tensor(list(counts), device=logits_V.device)
        times = torch.tensor(list(counts.values()), dtype=logits_V.dtype, device=logits_V.device)
        logits_V[ids] -= s.presence_penalty + s.frequency_penalty * times
    return logits_V


def _kept(job: GenerateJob, probabilities_V: Tensor) -> tuple[Tensor, Tensor]:
    """The probabilities and ids that min_p, top_k and top_p leave, most probable first where any of them is set."""
    s = job.sampling
    vocabulary = len(probabilities_V)
    if s.top_k == 0 and s.top_p == 1.0 and s.min_p == 0.0:
        ids = torch.nonzero(probabilities_V)[:, 0]
        return probabilities_V[ids], ids
    count = min(s.top_k or vocabulary, vocabulary)
    values, ids = probabilities_V.topk(min(count, _HEAD))
    enough = values.sum() >= s.top_p if s.top_p < 1.0 else bool(values[-1] < s.min_p * values[0])
    if len(values) < count and not enough:
        values, ids = probabilities_V.topk(count)
    keep = values >= max(s.min_p * float(values[0]), torch.finfo(values.dtype).tiny)
    keep[0] = True
    values, ids = values[keep], ids[keep]
    if s.top_p < 1.0:
        # A token stays while those before it hold less than top_p of what is left.
        before = values.cumsum(0) - values
        stay = before < s.top_p * values.sum() if s.top_k or s.min_p else before < s.top_p
        stay[0] = True
        values, ids = values[stay], ids[stay]
    return values, ids
