"""Draws the next token of a row: from the row's own logits and the request's own random numbers.

In NumPy: most torch calls on a row of this length wake torch's threads, and those look for more work for milliseconds,
on the cores that the next step needs.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from plural.engine.grammar import GrammarState
from plural.engine.kernels.interface import Result
from plural.engine.request import Drawn, GenerateJob, Job, PromptJob

# How many of the most probable tokens are sorted first; all are only when top_p or min_p may leave more.
_HEAD = 512


def draw(job: GenerateJob, result: Result, row: int) -> Drawn:
    """The token, and log-probabilities before penalties, grammar and temperature. The row must be finite. Raises
    GrammarError when the job's grammar fails."""
    if result.best_logit_R and not reads_logits(job):
        return Drawn(result.best_R[row], result.best_logit_R[row] - result.totals_R[row], ())
    logits_V = result.on_host(row)
    token = result.best_R[row]
    if not _likeliest(job):
        token = _draw_allowed(job, logits_V)
    elif job.grammar is not None:
        token = _likeliest_allowed(job, job.grammar, token, logits_V)
    total = result.totals_R[row]
    top = _largest(logits_V, job.sampling.logprobs) if job.sampling.logprobs else ()
    return Drawn(token, float(logits_V[token]) - total, tuple((int(one), float(logits_V[one]) - total) for one in top))


def reads_logits(job: Job) -> bool:
    """Whether drawing for the job takes more of a row than its likeliest token and that one's log-probability."""
    if isinstance(job, PromptJob):
        return any(reads_logits(child) for child in job.children)
    plain = isinstance(job, GenerateJob) and _likeliest(job) and job.grammar is None
    return isinstance(job, GenerateJob) and (not plain or job.sampling.logprobs > 0)


def masked(job: Job) -> GrammarState | None:
    """The grammar of which drawing for the job asks all that it allows; not of who takes the likeliest token: that one
    is tried first."""
    if isinstance(job, GenerateJob) and not (_likeliest(job) and not job.sampling.logprobs):
        return job.grammar
    return None


def _likeliest(job: GenerateJob) -> bool:
    """Whether it takes the likeliest token, of those that its grammar allows."""
    s = job.sampling
    penalties = s.repetition_penalty != 1.0 or s.presence_penalty or s.frequency_penalty
    return s.temperature == 0 and not penalties


def _likeliest_allowed(job: GenerateJob, grammar: GrammarState, likeliest: int, logits_V: np.ndarray) -> int:
    """Finds out which tokens are allowed only where the likeliest of all is not.

    Where a text is forced the mask has just the tokens that the tokenizer cuts it into, and others spell it, too. Who
    asks for log-probabilities draws there, and is to get the same tokens.
    """
    if not job.sampling.logprobs and grammar.takes(likeliest):
        return likeliest
    ids = np.flatnonzero(grammar.allowed())
    token = int(ids[logits_V[ids].argmax()])
    grammar.accept(token)
    return token


def _draw_allowed(job: GenerateJob, logits_V: np.ndarray) -> int:
    """Penalties, then grammar, then temperature, then min_p, top_k and top_p, then the request's own random number."""
    logits_V = _penalised(job, logits_V.copy())
    if job.grammar is not None:
        logits_V = np.where(job.grammar.allowed(), logits_V, np.float32(-np.inf))
    token = int(logits_V.argmax()) if job.sampling.temperature == 0 else _at_random(job, logits_V)
    if job.grammar is not None:
        job.grammar.accept(token)
    return token


def _at_random(job: GenerateJob, logits_V: np.ndarray) -> int:
    probabilities_V = np.exp((logits_V - logits_V.max()) / np.float32(job.sampling.temperature))
    probabilities_V /= probabilities_V.sum()
    values, ids = _kept(job, probabilities_V)
    cumulative = values.cumsum(dtype=np.float64)
    at = int(cumulative.searchsorted(job.random.random() * cumulative[-1], side="right"))
    return int(ids[min(at, len(ids) - 1)])


def _penalised(job: GenerateJob, logits_V: np.ndarray) -> np.ndarray:
    s = job.sampling
    if s.repetition_penalty != 1.0:
        seen = list(set(job.tokens))
        values = logits_V[seen]
        logits_V[seen] = np.where(values > 0, values / s.repetition_penalty, values * s.repetition_penalty)
    if (s.presence_penalty or s.frequency_penalty) and job.output:
        for token, times in Counter(job.output).items():
            logits_V[token] -= s.presence_penalty + s.frequency_penalty * times
    return logits_V


def _kept(job: GenerateJob, probabilities_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities and ids that min_p, top_k and top_p leave, most probable first where any of them is set."""
    s = job.sampling
    if s.top_k == 0 and s.top_p == 1.0 and s.min_p == 0.0:
        ids = np.flatnonzero(probabilities_V > 0)
        return probabilities_V[ids], ids
    count = min(s.top_k or len(probabilities_V), len(probabilities_V))
    ids = _largest(probabilities_V, min(count, _HEAD))
    values = probabilities_V[ids]
    enough = values.sum() >= s.top_p if s.top_p < 1.0 else values[-1] < s.min_p * values[0]
    if len(ids) < count and not enough:
        ids = _largest(probabilities_V, count)
        values = probabilities_V[ids]
    keep = values >= max(s.min_p * values[0], np.finfo(values.dtype).tiny)
    keep[0] = True
    values, ids = values[keep], ids[keep]
    if s.top_p < 1.0:
        # A token stays while those before it hold less than top_p of what is left.
        before = values.cumsum(dtype=np.float64) - values
        stay = before < (s.top_p * values.sum() if s.top_k or s.min_p else s.top_p)
        stay[0] = True
        values, ids = values[stay], ids[stay]
    return values, ids


def _largest(x_V: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` largest stand, the largest first."""
    if count < len(x_V):
        ids = torch.from_numpy(x_V).topk(count, sorted=False).indices.numpy()  # of a single row torch takes one thread
    else:
        ids = np.arange(len(x_V))
    return ids[np.lexsort((ids, -x_V[ids]))]
