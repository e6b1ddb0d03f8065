"""The products that Numba's kernels spend their time with, in vectors of LLVM's own.

Numba leaves it to LLVM to find the vectors in a loop, which then keeps no sum of a whole row in registers: two to three
times slower. Here rows are cut into vectors from the start, and what of a row fits in the registers is summed up over
all rows of the matrix before the next piece is. Vectors have 64 bytes; of shorter registers LLVM takes several.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

#: Head sizes must be multiples of this.
LANES = 16
_VECTOR_BYTES = 64
# What sums may take of 16 registers of 32 bytes, so that some are left for what is multiplied.
_BYTES_FOR_SUMS = 12 * 32
_FUSED = ("contract",)  # a product and a sum may be rounded once


@intrinsic
def transpose_product(typing_context, m, x, y, sized):
    """y = M^T x for M (D, D), C-contiguous, and a tuple of length D, a multiple of 16."""

    def generate(context, builder, signature, args):
        rows = _Rows(context, builder, signature)
        of_m, of_x, of_y = (rows.data(i, args[i]) for i in range(3))
        for columns, rows_at_once in rows.pieces:
            sums = [[rows.variable() for _ in columns] for _ in range(rows_at_once)]
            for place in sum(sums, []):
                builder.store(rows.zero, place)
            with rows.loop(rows.index(rows.size), rows_at_once) as j:
                for i, places in enumerate(sums):
                    row = builder.add(j, rows.index(i))
                    factor = rows.repeated(of_x, row)
                    for place, column in zip(places, columns, strict=True):
                        rows.add_product(place, factor, rows.load(of_m, row, column))
            for column, *places in zip(columns, *sums, strict=True):
                total = builder.load(places[0])
                for place in places[1:]:
                    total = builder.fadd(total, builder.load(place))
                rows.store(total, of_y, rows.index(0), column)
        return context.get_dummy_value()

    return types.void(m, x, y, sized), generate


@intrinsic
def add_outer_products(typing_context, p, r, decay, m, sized):
    """M = decay M + sum_k p_k r_k^T over the rows of p and r, (n, D), C-contiguous like M (D, D), and a tuple of
    length D."""

    def generate(context, builder, signature, args):
        rows = _Rows(context, builder, signature)
        of_p, of_r, of_m = (rows.data(i, args[i]) for i in (0, 1, 3))
        count, decays = rows.count(0, args[0]), rows.splat(args[2])
        for columns, rows_at_once in rows.pieces:
            sums = [[rows.variable() for _ in columns] for _ in range(rows_at_once)]
            with rows.loop(rows.index(rows.size), rows_at_once) as j:
                here = [builder.add(j, rows.index(i)) for i in range(rows_at_once)]
                for row, places in zip(here, sums, strict=True):
                    for place, column in zip(places, columns, strict=True):
                        builder.store(builder.fmul(decays, rows.load(of_m, row, column), flags=_FUSED), place)
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
        rows = _Rows(context, builder, signature)
        of_g, of_a, of_x, of_y, of_out_x, of_out_y = (rows.data(i, args[i]) for i in range(6))
        compared = rows.variable()
        builder.store(rows.zero, compared)
        for column in range(rows.size // rows.lanes):
            for out in (of_out_x, of_out_y):
                rows.store(rows.zero, out, rows.index(0), column)
        for columns in rows.cut(_BYTES_FOR_SUMS // 2):
            sums = [(rows.variable(), rows.variable()) for _ in columns]
            for place in sum(sums, ()):
                builder.store(rows.zero, place)
            with rows.loop(rows.index(rows.size), 1) as j:
                factors, dots = [rows.repeated(of, j) for of in (of_x, of_y)], [rows.zero, rows.zero]
                for places, column in zip(sums, columns, strict=True):
                    row = rows.load(of_g, j, column)
                    rows.add_product(compared, row, rows.load(of_a, j, column))
                    for i, (place, of) in enumerate(zip(places, (of_x, of_y), strict=True)):
                        rows.add_product(place, factors[i], row)
                        dots[i] = rows.plus_product(dots[i], row, rows.load(of, rows.index(0), column))
                for dot, out in zip(dots, (of_out_x, of_out_y), strict=True):
                    rows.add_number(rows.across(dot), out, j)
            for places, column in zip(sums, columns, strict=True):
                for place, out in zip(places, (of_out_x, of_out_y), strict=True):
                    total = builder.fadd(rows.load(out, rows.index(0), column), builder.load(place), flags=_FUSED)
                    rows.store(total, out, rows.index(0), column)
        return rows.across(builder.load(compared))

    return g.dtype(g, a, x, y, out_x, out_y, sized), generate


@intrinsic
def read_compare_and_write(typing_context, g, new, c, decay, key, value, right, out_value, out_key, sized):
    """out_value = G^T key, out_key = G value + C right, and then new = decay G + key right^T, in one pass; returns the
    sum of the products of the entries of G and of C. new may be G itself; the rest likewise."""

    def generate(context, builder, signature, args):
        rows = _Rows(context, builder, signature)
        of_g, of_new, of_c, of_key, of_value, of_right, of_out_value, of_out_key = (
            rows.data(i, args[i]) for i in (0, 1, 2, 4, 5, 6, 7, 8)
        )
        decays, compared = rows.splat(args[3]), rows.variable()
        builder.store(rows.zero, compared)
        for column in range(rows.size // rows.lanes):
            rows.store(rows.zero, of_out_key, rows.index(0), column)
        for columns in rows.cut(_BYTES_FOR_SUMS):
            sums = [rows.variable() for _ in columns]
            for place in sums:
                builder.store(rows.zero, place)
            with rows.loop(rows.index(rows.size), 1) as j:
                factor, dots = rows.repeated(of_key, j), [rows.zero, rows.zero]
                for place, column in zip(sums, columns, strict=True):
                    row, other = rows.load(of_g, j, column), rows.load(of_c, j, column)
                    to_write = rows.load(of_right, rows.index(0), column)
                    rows.add_product(place, factor, row)
                    rows.add_product(compared, row, other)
                    dots[0] = rows.plus_product(dots[0], row, rows.load(of_value, rows.index(0), column))
                    dots[1] = rows.plus_product(dots[1], other, to_write)
                    left_over = builder.fmul(decays, row, flags=_FUSED)
                    rows.store(rows.plus_product(left_over, factor, to_write), of_new, j, column)
                rows.add_number(rows.across(builder.fadd(*dots)), of_out_key, j)
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
        rows, size = _Rows(context, builder, signature), signature.args[3].count
        of_a, of_x, of_y = (rows.data(i, args[i]) for i in range(3))
        for column in range(rows.size // rows.lanes):
            vector, total = rows.load(of_x, rows.index(0), column), rows.zero
            for r in range(size):
                entries = rows.repeated_in_blocks(vector, r, size)
                product = builder.fmul(rows.load(of_a, rows.index(r), column), entries, flags=_FUSED)
                total = builder.fadd(product, total, flags=_FUSED)
            rows.store(total, of_y, rows.index(0), column)
        return context.get_dummy_value()

    return types.void(a, x, y, blocked, sized), generate


@intrinsic
def add_block_outer_product(typing_context, a, x, y, blocked, sized):
    """A += y x^T in the blocks of A, likewise."""

    def generate(context, builder, signature, args):
        rows, size = _Rows(context, builder, signature), signature.args[3].count
        of_a, of_x, of_y = (rows.data(i, args[i]) for i in range(3))
        for column in range(rows.size // rows.lanes):
            left, right = rows.load(of_y, rows.index(0), column), rows.load(of_x, rows.index(0), column)
            for r in range(size):
                product = builder.fmul(left, rows.repeated_in_blocks(right, r, size), flags=_FUSED)
                total = builder.fadd(product, rows.load(of_a, rows.index(r), column), flags=_FUSED)
                rows.store(total, of_a, rows.index(r), column)
        return context.get_dummy_value()

    return types.void(a, x, y, blocked, sized), generate


def _written_and_read(context, builder, signature, old, new, decay, left, right, query, out, other=None):
    """M = decay old + left right^T and out = M^T query in one pass over the rows; returns the sum of M * other."""
    rows = _Rows(context, builder, signature)
    of_old, of_new, of_left, of_right, of_query, of_out = (
        rows.data(*argument) for argument in (old, new, left, right, query, out)
    )
    decays, compared = rows.splat(decay), rows.variable()
    builder.store(rows.zero, compared)
    for columns in rows.cut(_BYTES_FOR_SUMS // 2):  # the other half takes `right`
        sums = [rows.variable() for _ in columns]
        for place in sums:
            builder.store(rows.zero, place)
        vectors = [rows.load(of_right, rows.index(0), column) for column in columns]
        with rows.loop(rows.index(rows.size), 1) as j:
            factor, weight = rows.repeated(of_left, j), rows.repeated(of_query, j)
            for place, vector, column in zip(sums, vectors, columns, strict=True):
                left_over = builder.fmul(decays, rows.load(of_old, j, column), flags=_FUSED)
                row = builder.fadd(left_over, builder.fmul(factor, vector, flags=_FUSED), flags=_FUSED)
                rows.store(row, of_new, j, column)
                rows.add_product(place, weight, row)
                if other is not None:
                    rows.add_product(compared, row, rows.load(rows.data(*other), j, column))
        for place, column in zip(sums, columns, strict=True):
            rows.store(builder.load(place), of_out, rows.index(0), column)
    return rows.across(builder.load(compared))


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


class _Rows:
    """An intrinsic's arguments as LLVM sees them: C-contiguous arrays with rows of D numbers; last a tuple as long."""

    def __init__(self, context, builder, signature):
        self.context, self.builder, self.signature = context, builder, signature
        self.size = signature.args[-1].count
        dtype = signature.args[0].dtype
        self.bytes = dtype.bitwidth // 8
        self.lanes = _VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(context.get_value_type(dtype), self.lanes)
        self.zero = ir.Constant(self.vector, None)
        #: Which vectors of a row are summed up together, and of how many rows: sums of one would wait for each other.
        self.pieces = [
            (columns, 2 if 2 * len(columns) * _VECTOR_BYTES <= _BYTES_FOR_SUMS else 1)
            for columns in self.cut(_BYTES_FOR_SUMS)
        ]

    def cut(self, largest):
        """The vectors of a row in pieces, about equal, of at most so many bytes."""
        columns = range(self.size // self.lanes)
        count = -(-len(columns) // (largest // _VECTOR_BYTES))
        bounds = [len(columns) * i // count for i in range(count + 1)]
        return [columns[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    def index(self, number):
        return ir.Constant(ir.IntType(64), number)

    def loop(self, count, step):
        """A loop over 0, step, ... below count, a context that gives the number."""
        return _first(cgutils.for_range_slice(self.builder, self.index(0), count, self.index(step), ir.IntType(64)))

    def data(self, position, value):
        return self._array(position, value).data

    def count(self, position, value):
        """The rows of a matrix."""
        return self.builder.extract_value(self._array(position, value).shape, 0)

    def load(self, data, row, column):
        return self.builder.load(self._place(data, row, column), align=self.bytes)

    def store(self, vector, data, row, column):
        self.builder.store(vector, self._place(data, row, column), align=self.bytes)

    def repeated(self, data, index):
        """A vector of one entry."""
        return self.splat(self.builder.load(self.builder.gep(data, [index])))

    def splat(self, one):
        """A vector of one number."""
        vector = self.zero
        for lane in range(self.lanes):
            vector = self.builder.insert_element(vector, one, ir.Constant(ir.IntType(32), lane))
        return vector

    def repeated_in_blocks(self, vector, place, size):
        """Each block of `size` entries of a vector filled with the entry that it has at a place."""
        mask = [lane // size * size + place for lane in range(self.lanes)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), mask)
        return self.builder.shuffle_vector(vector, vector, mask)

    def variable(self):
        """A place for a vector; LLVM turns it into a register."""
        return cgutils.alloca_once(self.builder, self.vector)

    def add_product(self, place, left, right):
        product = self.builder.fmul(left, right, flags=_FUSED)
        self.builder.store(self.builder.fadd(product, self.builder.load(place), flags=_FUSED), place)

    def plus_product(self, total, left, right):
        return self.builder.fadd(self.builder.fmul(left, right, flags=_FUSED), total, flags=_FUSED)

    def add_number(self, number, data, index):
        """Add one number to one entry."""
        place = self.builder.gep(data, [index])
        self.builder.store(self.builder.fadd(self.builder.load(place), number), place)

    def across(self, vector):
        """The sum of a vector's entries, by halves."""
        width = self.lanes
        while width > 1:
            width //= 2
            halves = []
            for start in (0, width):
                mask = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
                halves.append(self.builder.shuffle_vector(vector, vector, mask))
            vector = self.builder.fadd(*halves)
        return self.builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    def _array(self, position, value):
        return self.context.make_array(self.signature.args[position])(self.context, self.builder, value)

    def _place(self, data, row, column):
        start = self.builder.add(self.builder.mul(row, self.index(self.size)), self.index(column * self.lanes))
        return self.builder.bitcast(self.builder.gep(data, [start]), self.vector.as_pointer())


class _first:
    """A context that gives the first of what another one gives."""

    def __init__(self, context):
        self.context = context

    def __enter__(self):
        return self.context.__enter__()[0]

    def __exit__(self, *error):
        return self.context.__exit__(*error)
