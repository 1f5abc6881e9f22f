"""The GPU's kernels, in Triton. One program computes one row, one tile of rows or one head, in fp32.

What a step is made of (which pages, whose adapter) is read from tensors on the device, never from arguments: a captured
step can then be replayed for any other one of its size. `layer` and `entry` are not specialised on: one compilation
serves all layers. Every product says "ieee": a GPU's default for fp32 keeps ten bits of each factor.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Four numbers each:
#   an attention tile: row, rows, tokens up to its last row, where its pages begin in the tables
#   a LoRA tile: row, rows, its first part, the part after its last
#   a part: its adapter's table in units of 64 bytes, the scale as bits, its first column of `low`, columns of a module
#   a line of an adapter's table: where a and b begin in the memory's floats, rank, 0


@triton.jit
def rms_norm(x, weight, y, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < WIDTH
    value = tl.load(x + row * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(value * value, axis=0) / WIDTH + eps)
    tl.store(y + row * WIDTH + at, value * scale * tl.load(weight + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def silu_mul(gate_up, y, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < WIDTH
    gate = tl.load(gate_up + row * 2 * WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * WIDTH + WIDTH + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row * WIDTH + at, gate / (1.0 + tl.exp(-gate)) * up, mask=inside)


@triton.jit(do_not_specialize=["layer"])
def rotate_and_write(
    qkv,
    q_norm,
    k_norm,
    cos,
    sin,
    positions,
    pages,
    q,
    kv,
    layer,
    eps,
    NORMED: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PAGE: tl.constexpr,
    PAGE_STRIDE: tl.constexpr,
):
    """One head of one row: queries to `q`, keys and values into their page. A row on page -1 is padding."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, HALF)
    inside = at < WIDTH // 2
    source = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * WIDTH
    first = tl.load(source + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + WIDTH // 2 + at, mask=inside, other=0.0).to(tl.float32)
    heads = head + tl.zeros([HALF], tl.int32)  # a block: the interpreter makes no mask of a block and a number
    to_q = inside & (heads < HEADS)
    rotated = heads < HEADS + KV_HEADS
    if NORMED:
        of_k = inside & (heads >= HEADS) & rotated
        scale = 1.0 / tl.sqrt(tl.sum(first * first + second * second, axis=0) / WIDTH + eps)
        low = tl.load(q_norm + at, mask=to_q, other=0.0) + tl.load(k_norm + at, mask=of_k, other=0.0)
        up = tl.load(q_norm + WIDTH // 2 + at, mask=to_q, other=0.0)
        up += tl.load(k_norm + WIDTH // 2 + at, mask=of_k, other=0.0)
        first = tl.where(rotated, first * scale * low, first)
        second = tl.where(rotated, second * scale * up, second)
    position = tl.load(positions + row)
    angle = position.to(tl.int64) * WIDTH + at
    cos_1, sin_1 = tl.load(cos + angle, mask=inside, other=0.0), tl.load(sin + angle, mask=inside, other=0.0)
    angle += WIDTH // 2
    cos_2, sin_2 = tl.load(cos + angle, mask=inside, other=0.0), tl.load(sin + angle, mask=inside, other=0.0)
    turned_1 = tl.where(rotated, first * cos_1 - second * sin_1, first)
    turned_2 = tl.where(rotated, second * cos_2 + first * sin_2, second)
    target = q + (row * HEADS + head) * WIDTH + at
    tl.store(target, turned_1, mask=to_q)
    tl.store(target + WIDTH // 2, turned_2, mask=to_q)
    page = tl.load(pages + row + tl.zeros([HALF], tl.int32)).to(tl.int64)
    to_page = inside & (heads >= HEADS) & (page >= 0)
    line = (layer * 2 * KV_HEADS + head - HEADS) * PAGE + position % PAGE
    target = kv + page * PAGE_STRIDE + line * WIDTH + at
    tl.store(target, turned_1, mask=to_page)
    tl.store(target + WIDTH // 2, turned_2, mask=to_page)


@triton.jit(do_not_specialize=["layer"])
def attend(
    q,
    kv,
    tiles,
    tables,
    out,
    layer,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    PAGE_STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Rows of one sequence with all query heads of one KV head, over its tokens, BLOCK_N at a time."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    tile, kv_head = tiles + tl.program_id(0) * 4, tl.program_id(1)
    row, rows, length, table = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    if rows == 0:
        return
    m, d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    inside = d < WIDTH
    real = m // GROUP < rows
    head = (row + m // GROUP).to(tl.int64) * HEADS + kv_head * GROUP + m % GROUP
    at = head[:, None] * WIDTH + d[None, :]
    there = real[:, None] & inside[None, :]
    q_MD = tl.load(q + at, mask=there, other=0.0) * scale
    last = length - rows + m // GROUP
    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    keys = kv + (layer * 2 * KV_HEADS + kv_head) * PAGE * WIDTH
    values = keys + KV_HEADS * PAGE * WIDTH
    for start in range(0, length, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        held = n < length
        page = tl.load(tables + table + n // PAGE, mask=held, other=0).to(tl.int64)
        place = page * PAGE_STRIDE + (n % PAGE) * WIDTH
        k_DN = tl.load(keys + place[None, :] + d[:, None], mask=held[None, :] & inside[:, None], other=0.0)
        scores_MN = tl.dot(q_MD, k_DN, input_precision="ieee")
        scores_MN = tl.where(n[None, :] <= last[:, None], scores_MN, float("-inf"))
        higher = tl.maximum(best, tl.max(scores_MN, axis=1))  # finite: the first token is before every row
        kept = tl.exp(best - higher)
        weights_MN = tl.exp(scores_MN - higher[:, None])
        v_ND = tl.load(values + place[:, None] + d[None, :], mask=held[:, None] & inside[None, :], other=0.0)
        mixed_MD = mixed_MD * kept[:, None] + tl.dot(weights_MN, v_ND, input_precision="ieee")
        total = total * kept + tl.sum(weights_MN, axis=1)
        best = higher
    tl.store(out + at, mixed_MD / total[:, None], mask=there)


@triton.jit(do_not_specialize=["entry", "low_rows"])
def shrink(
    x,
    low,
    floats,
    longs,
    tiles,
    parts,
    entry,
    low_rows,
    low_width,
    INPUTS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """low = x @ a.T of one module for a tile of rows: of each adapter that they wear, and of just its ranks. Every
    piece of the inputs has its own `low`, for a tile may be all there is to do, and its inputs are long."""
    tile, module, piece = tiles + tl.program_id(0) * 4, tl.program_id(1), tl.program_id(2)
    row, rows, first, stop = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    if first == stop:
        return
    m, k, r = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_R)
    real = m < rows
    at = (row + m).to(tl.int64)
    for part in range(first, stop):
        line = longs + tl.load(parts + part * 4).to(tl.int64) * 8 + (entry + module) * 4
        a, rank = tl.load(line), tl.load(line + 2).to(tl.int32)
        column = tl.load(parts + part * 4 + 2) + module * tl.load(parts + part * 4 + 3)
        for start in range(0, rank, BLOCK_R):
            ranks = start + r
            low_MR = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
            for begun in range(0, PIECE, BLOCK_K):
                inputs = piece * PIECE + begun + k
                inside = inputs < INPUTS
                x_MK = tl.load(
                    x + at[:, None] * INPUTS + inputs[None, :], mask=real[:, None] & inside[None, :], other=0.0
                )
                a_KR = tl.load(
                    floats + a + ranks[None, :].to(tl.int64) * INPUTS + inputs[:, None],
                    mask=(ranks < rank)[None, :] & inside[:, None],
                    other=0.0,
                )
                low_MR += tl.dot(x_MK.to(tl.float32), a_KR, input_precision="ieee")
            tl.store(
                low + (piece * low_rows + at)[:, None] * low_width + column + ranks[None, :],
                low_MR,
                mask=real[:, None] & (ranks < rank)[None, :],
            )


@triton.jit(do_not_specialize=["entry", "low_rows"])
def expand(
    low,
    y,
    floats,
    longs,
    tiles,
    parts,
    entry,
    low_rows,
    low_width,
    OUT_0: tl.constexpr,
    OUT_1: tl.constexpr,
    OUT_2: tl.constexpr,
    PIECES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """y += scale * low @ b for a tile of rows and BLOCK_N outputs of one module, its adapters one after another."""
    tile, module = tiles + tl.program_id(0) * 4, tl.program_id(1) // BLOCKS
    row, rows, first, stop = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    if first == stop:
        return
    outputs = tl.where(module == 0, OUT_0, tl.where(module == 1, OUT_1, OUT_2))
    before = tl.where(module == 0, 0, tl.where(module == 1, OUT_0, OUT_0 + OUT_1))
    n = (tl.program_id(1) % BLOCKS) * BLOCK_N + tl.arange(0, BLOCK_N)
    m, r = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_R)
    real, inside = m < rows, n < outputs
    at = (row + m).to(tl.int64)
    added_MN = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for part in range(first, stop):
        line = longs + tl.load(parts + part * 4).to(tl.int64) * 8 + (entry + module) * 4
        b, rank = tl.load(line + 1), tl.load(line + 2).to(tl.int32)
        scale = tl.load(parts + part * 4 + 1).to(tl.float32, bitcast=True)
        column = tl.load(parts + part * 4 + 2) + module * tl.load(parts + part * 4 + 3)
        for start in range(0, rank, BLOCK_R):
            ranks = start + r
            there_MR = real[:, None] & (ranks < rank)[None, :]
            low_MR = tl.zeros([BLOCK_M, BLOCK_R], tl.float32)
            for piece in range(PIECES):
                line_M = (piece * low_rows + at) * low_width + column
                low_MR += tl.load(low + line_M[:, None] + ranks[None, :], mask=there_MR, other=0.0)
            b_RN = tl.load(
                floats + b + ranks[:, None].to(tl.int64) * outputs + n[None, :],
                mask=(ranks < rank)[:, None] & inside[None, :],
                other=0.0,
            )
            added_MN += tl.dot(low_MR * scale, b_RN, input_precision="ieee")
    target = y + at[:, None] * (OUT_0 + OUT_1 + OUT_2) + before + n[None, :]
    there = real[:, None] & inside[None, :]
    tl.store(target, tl.load(target, mask=there, other=0.0).to(tl.float32) + added_MN, mask=there)


@triton.jit(do_not_specialize=["stride", "vocabulary", "rows"])
def summarise(logits, said, stride, vocabulary, rows, BLOCK: tl.constexpr):
    """Of a row of logits: the logarithm of the sum of exponentials (NaN where one is not finite), the first of the
    largest, and its logit; `said` is these three for all rows, as 32 bits each."""
    row = tl.program_id(0)
    x = logits + row.to(tl.int64) * stride
    at = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    where = tl.zeros([BLOCK], tl.int32)
    broken = tl.zeros([BLOCK], tl.int32)
    for start in range(0, vocabulary, BLOCK):
        inside = start + at < vocabulary
        value = tl.load(x + start + at, mask=inside, other=float("-inf"))
        fine = tl.abs(value) < float("inf")  # false for NaN, too
        broken = tl.where(inside & (fine == 0), 1, broken)
        where = tl.where(value > best, start + at, where)
        best = tl.where(value > best, value, best)
    highest = tl.max(best, axis=0)
    first = tl.min(tl.where(best == highest, where, 2147483647), axis=0)
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocabulary, BLOCK):
        value = tl.load(x + start + at, mask=start + at < vocabulary, other=float("-inf"))
        sums += tl.exp(value - highest)
    total = highest + tl.log(tl.sum(sums, axis=0))
    total = tl.where(tl.max(broken, axis=0) > 0, float("nan"), total)
    tl.store(said + row, total.to(tl.int32, bitcast=True))
    tl.store(said + rows + row, first)
    tl.store(said + 2 * rows + row, highest.to(tl.int32, bitcast=True))


@triton.jit(do_not_specialize=["before"])
def finite(x, said, before, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """1 where all of a row is finite, at `before` + row."""
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    value = tl.load(x + row.to(tl.int64) * WIDTH + at, mask=at < WIDTH, other=0.0)
    tl.store(said + before + row, tl.min((tl.abs(value) < float("inf")).to(tl.int32), axis=0))
