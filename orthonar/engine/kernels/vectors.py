"""The products that Numba's kernels spend their time with, in vectors of LLVM's own.

What is done with a sum while it is in a register costs next to nothing: as a loop of its own the rest of a term took a
third as long as the product.
"""

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .llvm_rows import FUSED, Rows

# Rows whose sums over all columns are taken together: of each alone, its vector would be halved again and again.
_DOTS_AT_ONCE = 4


@intrinsic
def scale(typing_context, factor, x, out, sized):
    """out = factor x for x (D,), C-contiguous, and a tuple of length D, a multiple of 16; out may be x."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        factors, of_x, of_out = rows.splat(args[0]), rows.data(1, args[1]), rows.data(2, args[2])
        for column in range(rows.size // rows.lanes):
            scaled = builder.fmul(factors, rows.load(of_x, rows.index(0), column), flags=FUSED)
            rows.store(scaled, of_out, rows.index(0), column)
        return context.get_dummy_value()

    return types.void(x.dtype, x, out, sized), generate


@intrinsic
def add_scaled(typing_context, x, factor, y, out, sized):
    """out = x + factor y, likewise; out may be either."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        factors, (of_x, of_y, of_out) = rows.splat(args[1]), (rows.data(i, args[i]) for i in (0, 2, 3))
        for column in range(rows.size // rows.lanes):
            left, right = (rows.load(of, rows.index(0), column) for of in (of_x, of_y))
            rows.store(rows.plus_product(left, factors, right), of_out, rows.index(0), column)
        return context.get_dummy_value()

    return types.void(x, x.dtype, y, out, sized), generate


@intrinsic
def dot(typing_context, x, y, sized):
    """The inner product of x and y, (D,), likewise."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_x, of_y = (rows.data(i, args[i]) for i in range(2))
        total = rows.zero
        for column in range(rows.size // rows.lanes):
            total = rows.plus_product(total, *(rows.load(of, rows.index(0), column) for of in (of_x, of_y)))
        return rows.across(total)

    return x.dtype(x, y, sized), generate


@intrinsic
def trace(typing_context, m, sized):
    """The sum of the diagonal of M (D, D), likewise."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_m = rows.data(0, args[0])
        # some sums side by side, of which none waits for another
        sums = [ir.Constant(rows.vector.element, 0.0) for _ in range(8)]
        for j in range(rows.size):
            entry = builder.load(builder.gep(of_m, [rows.index(j * (rows.size + 1))]))
            sums[j % 8] = builder.fadd(sums[j % 8], entry)
        while len(sums) > 1:
            sums = [builder.fadd(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]
        return sums[0]

    return m.dtype(m, sized), generate


@intrinsic
def transpose_product(typing_context, m, x, y, sized):
    """y = M^T x for M (D, D), C-contiguous, and a tuple of length D, a multiple of 16."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_m, of_x, of_y = (rows.data(i, args[i]) for i in range(3))
        for column, total in rows.transpose_product(of_m, of_x, rows.index(0)):
            rows.store(total, of_y, rows.index(0), column)
        return context.get_dummy_value()

    return types.void(m, x, y, sized), generate


@intrinsic
def next_term(typing_context, a, factor, terms, m, out, row, weight, total, sized):
    """r_{m+1} = factor A r_m - 2 r_m - r_{m-1}, to a row of out, and weight times it is added to total.

    A is symmetric, (D, D); terms has the rows r_0, ..., r_m, and may be out itself; r_{-1} is r_0. All C-contiguous,
    total (D,), and a tuple of length D.
    """

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_a, of_terms, of_out, of_total = (rows.data(i, args[i]) for i in (0, 2, 4, 7))
        m, row, factors, weights = args[3], args[5], rows.splat(args[1]), rows.splat(args[6])
        first = builder.icmp_signed("==", m, rows.index(0))
        before = builder.select(first, m, builder.sub(m, rows.index(1)))
        for column, product in rows.transpose_product(of_a, of_terms, m):
            others = rows.plus_product(rows.load(of_terms, before, column), rows.two, rows.load(of_terms, m, column))
            term = builder.fsub(builder.fmul(factors, product, flags=FUSED), others, flags=FUSED)
            rows.store(term, of_out, row, column)
            summed = rows.plus_product(rows.load(of_total, rows.index(0), column), weights, term)
            rows.store(summed, of_total, rows.index(0), column)
        return context.get_dummy_value()

    return types.void(a, a.dtype, terms, types.intp, out, types.intp, a.dtype, total, sized), generate


@intrinsic
def next_adjoint(typing_context, a, factor, adjoints, m, weight, source, terms, compared, sized):
    """p_m = weight source + factor A p_{m+1} - 2 p_{m+1} - p_{m+2} over the rows of adjoints, and A p_{m+1} times row m
    of terms, entry by entry, is added to compared. A is symmetric, (D, D), source and compared (D,); all likewise."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_a, of_adjoints, of_source, of_terms, of_compared = (rows.data(i, args[i]) for i in (0, 2, 5, 6, 7))
        m, factors, weights = args[3], rows.splat(args[1]), rows.splat(args[4])
        here, there = builder.add(m, rows.index(1)), builder.add(m, rows.index(2))
        for column, product in rows.transpose_product(of_a, of_adjoints, here):
            total = rows.plus_product(
                rows.load(of_compared, rows.index(0), column), product, rows.load(of_terms, m, column)
            )
            rows.store(total, of_compared, rows.index(0), column)
            sources = builder.fmul(weights, rows.load(of_source, rows.index(0), column), flags=FUSED)
            others = rows.plus_product(
                rows.load(of_adjoints, there, column), rows.two, rows.load(of_adjoints, here, column)
            )
            adjoint = rows.plus_product(builder.fsub(sources, others, flags=FUSED), factors, product)
            rows.store(adjoint, of_adjoints, m, column)
        return context.get_dummy_value()

    return types.void(a, a.dtype, adjoints, types.intp, a.dtype, source, terms, compared, sized), generate


@intrinsic
def add_outer_products(typing_context, p, r, decay, m, sized):
    """M = decay M + sum_k p_k r_k^T over the rows of p and r, (n, D), C-contiguous like M (D, D), and a tuple of
    length D."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_p, of_r, of_m = (rows.data(i, args[i]) for i in (0, 1, 3))
        count, decays = rows.count(0, args[0]), rows.splat(args[2])
        for columns, rows_at_once in rows.pieces:
            sums = [[rows.variable() for _ in columns] for _ in range(rows_at_once)]
            with rows.loop(rows.index(rows.size), rows_at_once) as j:
                here = [builder.add(j, rows.index(i)) for i in range(rows_at_once)]
                for row, places in zip(here, sums, strict=True):
                    for place, column in zip(places, columns, strict=True):
                        builder.store(builder.fmul(decays, rows.load(of_m, row, column), flags=FUSED), place)
                with rows.loop(count, 1) as k:
                    start = builder.mul(k, rows.index(rows.size))
                    vectors = [rows.load(of_r, k, column) for column in columns]
                    for row, places in zip(here, sums, strict=True):
                        factor = rows.repeated(of_p, builder.add(start, row))
                        for place, vector in zip(places, vectors, strict=True):
                            rows.add_product(place, factor, vector)
                for row, places in zip(here, sums, strict=True):
                    for place, column in zip(places, columns, strict=True):
                        rows.store(builder.load(place), of_m, row, column)
        return context.get_dummy_value()

    return types.void(p, r, decay, m, sized), generate


@intrinsic
def symmetric_products(typing_context, g, a, x, y, out_x, out_y, sized):
    """out_x = (G + G^T) x and out_y = (G + G^T) y for G (D, D), in one pass; returns the sum of the products of the
    entries of G and of A (D, D). All C-contiguous, and a tuple of length D."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_g, of_a, of_x, of_y, of_out_x, of_out_y = (rows.data(i, args[i]) for i in range(6))
        compared = rows.variable()
        builder.store(rows.zero, compared)
        for column in range(rows.size // rows.lanes):
            for out in (of_out_x, of_out_y):
                rows.store(rows.zero, out, rows.index(0), column)
        for columns in rows.cut(rows.bytes_for_sums // 2):
            sums = [(rows.variable(), rows.variable()) for _ in columns]
            for place in sum(sums, ()):
                builder.store(rows.zero, place)
            with rows.loop(rows.index(rows.size), _DOTS_AT_ONCE) as first:
                dots: tuple[list, list] = ([], [])
                for row_number in range(_DOTS_AT_ONCE):
                    j = builder.add(first, rows.index(row_number))
                    factors, of_row = [rows.repeated(of, j) for of in (of_x, of_y)], [rows.zero, rows.zero]
                    for places, column in zip(sums, columns, strict=True):
                        row = rows.load(of_g, j, column)
                        rows.add_product(compared, row, rows.load(of_a, j, column))
                        for i, (place, of) in enumerate(zip(places, (of_x, of_y), strict=True)):
                            rows.add_product(place, factors[i], row)
                            of_row[i] = rows.plus_product(of_row[i], row, rows.load(of, rows.index(0), column))
                    for of_all, dot in zip(dots, of_row, strict=True):
                        of_all.append(dot)
                for of_all, out in zip(dots, (of_out_x, of_out_y), strict=True):
                    rows.add_numbers(rows.across_each(of_all), out, first)
            for places, column in zip(sums, columns, strict=True):
                for place, out in zip(places, (of_out_x, of_out_y), strict=True):
                    total = builder.fadd(rows.load(out, rows.index(0), column), builder.load(place), flags=FUSED)
                    rows.store(total, out, rows.index(0), column)
        return rows.across(builder.load(compared))

    return g.dtype(g, a, x, y, out_x, out_y, sized), generate


@intrinsic
def read_compare_and_write(typing_context, g, new, c, decay, key, value, right, out_value, out_key, sized):
    """out_value = G^T key, out_key = G value + C right, and then new = decay G + key right^T, in one pass; returns the
    sum of the products of the entries of G and of C. new may be G itself; the rest likewise."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_g, of_new, of_c, of_key, of_value, of_right, of_out_value, of_out_key = (
            rows.data(i, args[i]) for i in (0, 1, 2, 4, 5, 6, 7, 8)
        )
        decays, compared = rows.splat(args[3]), rows.variable()
        builder.store(rows.zero, compared)
        for column in range(rows.size // rows.lanes):
            rows.store(rows.zero, of_out_key, rows.index(0), column)
        for columns in rows.cut(rows.bytes_for_sums):
            sums = [rows.variable() for _ in columns]
            for place in sums:
                builder.store(rows.zero, place)
            with rows.loop(rows.index(rows.size), _DOTS_AT_ONCE) as first:
                dots = []
                for row_number in range(_DOTS_AT_ONCE):
                    j = builder.add(first, rows.index(row_number))
                    factor, by_value, by_right = rows.repeated(of_key, j), rows.zero, rows.zero
                    for place, column in zip(sums, columns, strict=True):
                        row, other = rows.load(of_g, j, column), rows.load(of_c, j, column)
                        to_write = rows.load(of_right, rows.index(0), column)
                        rows.add_product(place, factor, row)
                        rows.add_product(compared, row, other)
                        by_value = rows.plus_product(by_value, row, rows.load(of_value, rows.index(0), column))
                        by_right = rows.plus_product(by_right, other, to_write)
                        left_over = builder.fmul(decays, row, flags=FUSED)
                        rows.store(rows.plus_product(left_over, factor, to_write), of_new, j, column)
                    dots.append(builder.fadd(by_value, by_right))
                rows.add_numbers(rows.across_each(dots), of_out_key, first)
            for place, column in zip(sums, columns, strict=True):
                rows.store(builder.load(place), of_out_value, rows.index(0), column)
        return rows.across(builder.load(compared))

    return g.dtype(g, new, c, decay, key, value, right, out_value, out_key, sized), generate


@intrinsic
def block_product(typing_context, a, x, y, blocked, sized):
    """y = A x for block-diagonal A with blocks of B x B, which come as (B, D): a[r] meets the r-th entry of each block.

    x and y have D entries one after the other; tuples of length B, which divides a vector's entries, and D.
    """

    def generate(context, builder, signature, args):
        rows, size = Rows(context, builder, signature), signature.args[3].count
        of_a, of_x, of_y = (rows.data(i, args[i]) for i in range(3))
        for column in range(rows.size // rows.lanes):
            vector, total = rows.load(of_x, rows.index(0), column), rows.zero
            for r in range(size):
                entries = rows.repeated_in_blocks(vector, r, size)
                product = builder.fmul(rows.load(of_a, rows.index(r), column), entries, flags=FUSED)
                total = builder.fadd(product, total, flags=FUSED)
            rows.store(total, of_y, rows.index(0), column)
        return context.get_dummy_value()

    return types.void(a, x, y, blocked, sized), generate


@intrinsic
def add_block_outer_product(typing_context, a, x, y, blocked, sized):
    """A += y x^T in the blocks of A, likewise."""

    def generate(context, builder, signature, args):
        rows, size = Rows(context, builder, signature), signature.args[3].count
        of_a, of_x, of_y = (rows.data(i, args[i]) for i in range(3))
        for column in range(rows.size // rows.lanes):
            left, right = rows.load(of_y, rows.index(0), column), rows.load(of_x, rows.index(0), column)
            for r in range(size):
                product = builder.fmul(left, rows.repeated_in_blocks(right, r, size), flags=FUSED)
                total = builder.fadd(product, rows.load(of_a, rows.index(r), column), flags=FUSED)
                rows.store(total, of_a, rows.index(r), column)
        return context.get_dummy_value()

    return types.void(a, x, y, blocked, sized), generate


def _written_and_read(context, builder, signature, old, new, decay, left, right, query, out, other=None, earlier=False):
    """M = decay old + left right^T and out = M^T query in one pass over the rows, or (decay old)^T query if it is to be
    the earlier one that is read; returns the sum of M * other."""
    rows = Rows(context, builder, signature)
    of_old, of_new, of_left, of_right, of_query, of_out = (
        rows.data(*argument) for argument in (old, new, left, right, query, out)
    )
    decays, compared = rows.splat(decay), rows.variable()
    builder.store(rows.zero, compared)
    for columns in rows.cut(rows.bytes_for_sums // 2):  # the other half takes `right`
        sums = [rows.variable() for _ in columns]
        for place in sums:
            builder.store(rows.zero, place)
        vectors = [rows.load(of_right, rows.index(0), column) for column in columns]
        with rows.loop(rows.index(rows.size), 1) as j:
            factor, weight = rows.repeated(of_left, j), rows.repeated(of_query, j)
            for place, vector, column in zip(sums, vectors, columns, strict=True):
                left_over = builder.fmul(decays, rows.load(of_old, j, column), flags=FUSED)
                row = builder.fadd(left_over, builder.fmul(factor, vector, flags=FUSED), flags=FUSED)
                rows.store(row, of_new, j, column)
                rows.add_product(place, weight, left_over if earlier else row)
                if other is not None:
                    rows.add_product(compared, row, rows.load(rows.data(*other), j, column))
        for place, column in zip(sums, columns, strict=True):
            rows.store(builder.load(place), of_out, rows.index(0), column)
    return rows.across(builder.load(compared))


@intrinsic
def read_and_write(typing_context, old, new, decay, left, right, query, out, sized):
    """out = decay old^T query and new = decay old + left right^T in one pass: read before the write, likewise."""

    def generate(context, builder, signature, args):
        arguments = *_numbered(args[:2]), args[2], *_numbered(args[3:7], 3), None, True
        _written_and_read(context, builder, signature, *arguments)
        return context.get_dummy_value()

    return types.void(old, new, old.dtype, left, right, query, out, sized), generate


@intrinsic
def write_both_ways(typing_context, old, new, decay, x, y, sized):
    """M = decay old + x y^T + y x^T for M (D, D), which may be old itself; all likewise."""

    def generate(context, builder, signature, args):
        rows = Rows(context, builder, signature)
        of_old, of_new, of_x, of_y = (rows.data(i, args[i]) for i in (0, 1, 3, 4))
        decays = rows.splat(args[2])
        for columns in rows.cut(rows.bytes_for_sums // 2):
            vectors = [[rows.load(of, rows.index(0), column) for of in (of_x, of_y)] for column in columns]
            with rows.loop(rows.index(rows.size), 1) as j:
                xj, yj = rows.repeated(of_x, j), rows.repeated(of_y, j)
                for column, (x_here, y_here) in zip(columns, vectors, strict=True):
                    row = builder.fmul(decays, rows.load(of_old, j, column), flags=FUSED)
                    row = rows.plus_product(rows.plus_product(row, xj, y_here), yj, x_here)
                    rows.store(row, of_new, j, column)
        return context.get_dummy_value()

    return types.void(old, new, old.dtype, x, y, sized), generate


@intrinsic
def write_and_read(typing_context, old, new, decay, left, right, query, out, sized):
    """M = decay old + left right^T and out = M^T query for M (D, D), which may be old itself, all likewise."""

    def generate(context, builder, signature, args):
        _written_and_read(context, builder, signature, *_numbered(args[:2]), args[2], *_numbered(args[3:7], 3))
        return context.get_dummy_value()

    return types.void(old, new, decay, left, right, query, out, sized), generate


@intrinsic
def write_read_and_compare(typing_context, old, new, decay, left, right, query, out, other, sized):
    """The same; returns the sum of the products of the entries of M and of other, (D, D)."""

    def generate(context, builder, signature, args):
        return _written_and_read(context, builder, signature, *_numbered(args[:2]), args[2], *_numbered(args[3:8], 3))

    return old.dtype(old, new, decay, left, right, query, out, other, sized), generate


def _numbered(args, first=0):
    """Arguments with their positions."""
    return list(enumerate(args, first))
