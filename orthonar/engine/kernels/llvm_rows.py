"""Matrices as LLVM sees them in an intrinsic of Numba's: rows, cut into vectors.

Numba leaves it to LLVM to find the vectors in a loop, which then keeps no sum of a whole row in registers: two to three
times slower. Here rows are cut into vectors from the start, and what of a row fits in the registers is summed up over
all rows of the matrix before the next piece is. Vectors have 64 bytes; of shorter registers LLVM takes several.
"""

from llvmlite import ir
from numba.core import cgutils, types

#: Head sizes must be multiples of this.
LANES = 16
# Registers for sums, of 16 or, with AVX-512, of 32 twice as long: some are left for what is multiplied. Eight sums
# keep a processor busy that begins two products at a time, each of which takes four of its clock's steps.
_REGISTERS_FOR_SUMS = 12
#: A product and a sum may be rounded once.
FUSED = ("contract",)
_VECTOR_BYTES = 64


class Rows:
    """An intrinsic's arguments as LLVM sees them: C-contiguous arrays with rows of D numbers; last a tuple as long."""

    def __init__(self, context, builder, signature):
        self.context, self.builder, self.signature = context, builder, signature
        self.size = signature.args[-1].count
        dtype, *others = {argument.dtype for argument in signature.args if isinstance(argument, types.Array)}
        if others:
            raise TypeError(f"arrays of one dtype are needed, not of {dtype} and {others[0]}")
        self.bytes = dtype.bitwidth // 8
        self.lanes = _VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(context.get_value_type(dtype), self.lanes)
        self.zero = ir.Constant(self.vector, None)
        self.two = ir.Constant(self.vector, self.lanes * [2.0])
        *_, features = context.codegen().magic_tuple()  # of the processor that is compiled for
        #: What sums may take.
        self.bytes_for_sums = _REGISTERS_FOR_SUMS * (64 if "+avx512f" in features.split(",") else 32)
        #: Which vectors of a row are summed up together, and of how many rows: sums of one would wait for each other.
        self.pieces = [(columns, self._rows_at_once(columns)) for columns in self.cut(self.bytes_for_sums)]

    def _rows_at_once(self, columns):
        return next(n for n in (4, 2, 1) if n == 1 or n * len(columns) * _VECTOR_BYTES <= self.bytes_for_sums)

    def cut(self, largest):
        """The vectors of a row in pieces, about equal, of at most so many bytes."""
        columns = range(self.size // self.lanes)
        count = -(-len(columns) // (largest // _VECTOR_BYTES))
        bounds = [len(columns) * i // count for i in range(count + 1)]
        return [columns[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]

    def transpose_product(self, of_m, of_x, row_of_x):
        """Each column of vectors, and in it M^T x in registers, for M (D, D) and a row of another matrix."""
        start = self.builder.mul(row_of_x, self.index(self.size))
        for columns, rows_at_once in self.pieces:
            sums = [[self.variable() for _ in columns] for _ in range(rows_at_once)]
            for place in sum(sums, []):
                self.builder.store(self.zero, place)
            with self.loop(self.index(self.size), rows_at_once) as j:
                for i, places in enumerate(sums):
                    row = self.builder.add(j, self.index(i))
                    factor = self.repeated(of_x, self.builder.add(start, row))
                    for place, column in zip(places, columns, strict=True):
                        self.add_product(place, factor, self.load(of_m, row, column))
            for column, *places in zip(columns, *sums, strict=True):
                totals = [self.builder.load(place) for place in places]
                while len(totals) > 1:
                    totals = [self.builder.fadd(*pair) for pair in zip(totals[::2], totals[1::2], strict=True)]
                yield column, totals[0]

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
        product = self.builder.fmul(left, right, flags=FUSED)
        self.builder.store(self.builder.fadd(product, self.builder.load(place), flags=FUSED), place)

    def plus_product(self, total, left, right):
        return self.builder.fadd(self.builder.fmul(left, right, flags=FUSED), total, flags=FUSED)

    def add_numbers(self, numbers, data, index):
        """Add a few numbers to as many entries, from one on."""
        place = self.builder.bitcast(self.builder.gep(data, [index]), numbers.type.as_pointer())
        old = self.builder.load(place, align=self.bytes)
        self.builder.store(self.builder.fadd(old, numbers), place, align=self.bytes)

    def across_each(self, vectors):
        """The sum of the entries of each of a few vectors, a power of two of them, in one vector."""
        parts, width = 1, self.lanes  # of so many each vector holds a part, of so many numbers that are yet to be added
        while width > 1:
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True)) if len(vectors) > 1 else [(vectors[0],)]
            vectors = [self._folded(pair, parts, width) for pair in pairs]
            parts, width = parts * len(pairs[0]), width // 2
        return vectors[0]

    def _folded(self, vectors, parts, width):
        """One vector or two, each part in halves that are added to each other."""
        starts = [self.lanes * i + width * part for i in range(len(vectors)) for part in range(parts)]
        left, right = vectors[0], vectors[-1]
        halves = []
        for half in (0, width // 2):
            lanes = [start + half + lane for start in starts for lane in range(width // 2)]
            mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
            halves.append(self.builder.shuffle_vector(left, right, mask))
        return self.builder.fadd(*halves)

    def across(self, vector):
        """The sum of a vector's entries."""
        return self.builder.extract_element(self.across_each([vector]), ir.Constant(ir.IntType(32), 0))

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
