/* Batch normalisation, the addition of a shortcut and ReLU in one, forward and backward, on bf16 activations.
 *
 * A channels-last activation (n, c, h, w) is a matrix of rows = n h w times c.  To vectorise over any c, k rows are read as
 * one of width c k, a multiple of 64; the rows left over are padded to one more.  Arithmetic is fp32, rounded once to bf16;
 * sums are fp32 over 128 rows, then double.  The matrix is cut in 32 parts whatever the threads, and their sums are added in
 * order, so that results do not depend on the number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

enum { LANES = 16, VECTORS = 4, STRIP = LANES * VECTORS, BLOCK = 128, PARTS = 32, SMALL = 1 << 15 };
typedef uint16_t bf16;
typedef bf16 Halves __attribute__((vector_size(2 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef float Floats __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))
#define EACH for (int v = 0; v < VECTORS; v++)

INLINE Floats wide(const bf16 *p) {
    Halves h;
    memcpy(&h, p, sizeof h);
    return (Floats)(__builtin_convertvector(h, Words) << 16);
}

INLINE void narrow(bf16 *p, Floats f) { /* to nearest even; a NaN stays one */
#ifdef __AVX512BF16__
    Halves h = (Halves)_mm512_cvtneps_pbh((__m512)f); /* below 2^-126, to 0 */
#else
    Words w = (Words)f, nan = (Words)(f != f);
    w = (w + 0x7fff + ((w >> 16) & 1)) >> 16;
    Halves h = __builtin_convertvector((w & ~nan) | (nan & 0x7fc0), Halves);
#endif
    memcpy(p, &h, sizeof h);
}

INLINE Floats floats(const float *p) {
    Floats f;
    memcpy(&f, p, sizeof f);
    return f;
}

INLINE Floats unless(Words where, Floats f) { return (Floats)((Words)f & ~where); }

INLINE void add_to(double *sum, Floats f) {
    for (int i = 0; i < LANES; i++) sum[i] += f[i];
}

typedef struct {
    long c, width, rows, tail; /* channels; width and number of the wide rows; elements left over */
    int threads;
} Shape;

static Shape shape_of(long rows, long c, int threads) {
    long k = 1;
    while (c * k % STRIP) k *= 2;
    Shape s = {c, c * k, rows / k, rows % k * c, rows * c < SMALL ? 1 : threads};
    return s;
}

static void repeat(Shape s, float *to, const float *value) { /* (c,) -> (width,) */
    for (long i = 0; i < s.width; i++) to[i] = value[i % s.c];
}

static void pad(Shape s, bf16 *to, const bf16 *x, const bf16 *fill) { /* the rows left over, then `fill` (c,) or zeros */
    const bf16 *from = x + s.rows * s.width;
    for (long i = 0; i < s.width; i++) to[i] = i < s.tail ? from[i] : fill ? fill[i % s.c] : 0;
}

static double folded(Shape s, const double *sums, long channel) { /* over the parts and repetitions, in order */
    double sum = 0;
    for (long part = 0; part <= PARTS; part++)
        for (long i = channel; i < s.width; i += s.c) sum += sums[part * 2 * s.width + i];
    return sum;
}

INLINE long cut(Shape s, long part) { return s.rows * part / PARTS; } /* where a part begins */

/* ---- forward ---- */

static void moments(Shape s, const bf16 *x, long rows, const float *shift, double *sums) { /* of x - shift and its square */
    for (long begin = 0; begin < rows; begin += BLOCK) {
        long end = begin + BLOCK < rows ? begin + BLOCK : rows;
        for (long o = 0; o < s.width; o += STRIP) {
            Floats k[VECTORS], sum[VECTORS] = {0}, square[VECTORS] = {0};
            EACH k[v] = floats(shift + o + v * LANES);
            for (long r = begin; r < end; r++) EACH {
                Floats d = wide(x + r * s.width + o + v * LANES) - k[v];
                sum[v] += d;
                square[v] += d * d;
            }
            EACH add_to(sums + o + v * LANES, sum[v]), add_to(sums + s.width + o + v * LANES, square[v]);
        }
    }
}

INLINE void normalise(Shape s, const bf16 *x, const bf16 *residual, bf16 *y, long rows, const float *scale, const float *shift,
                      int adds, int relu) {
    for (long o = 0; o < s.width; o += STRIP) {
        Floats a[VECTORS], b[VECTORS];
        EACH a[v] = floats(scale + o + v * LANES), b[v] = floats(shift + o + v * LANES);
        for (long r = 0; r < rows; r++) EACH {
            long at = r * s.width + o + v * LANES;
            Floats f = wide(x + at) * a[v] + b[v];
            if (adds) f += wide(residual + at);
            if (relu) f = unless((Words)(f <= 0), f); /* a NaN is not <= 0, and passes */
            narrow(y + at, f);
        }
    }
}

static void write_forward(Shape s, const bf16 *x, const bf16 *residual, bf16 *y, long rows, const float *scale,
                          const float *shift, int relu) {
    if (residual && relu) normalise(s, x, residual, y, rows, scale, shift, 1, 1);
    else if (residual) normalise(s, x, residual, y, rows, scale, shift, 1, 0);
    else if (relu) normalise(s, x, residual, y, rows, scale, shift, 0, 1);
    else normalise(s, x, residual, y, rows, scale, shift, 0, 0);
}

/* y = relu?(BN(x) [+ residual]), over rows * c values.  Updates the running statistics and leaves in `saved` (4, c) the mean,
 * 1 / deviation, scale and shift.  Not 0: no memory. */
int residua_forward(const bf16 *x, const bf16 *residual, bf16 *y, const float *gamma, const float *beta, float *running_mean,
                    float *running_var, float *saved, long rows, long c, double eps, double momentum, int relu, int threads) {
    Shape s = shape_of(rows, c, threads);
    double *sums = calloc((PARTS + 1) * 2 * s.width, sizeof *sums);
    float *wide_values = malloc(2 * s.width * sizeof *wide_values);
    bf16 *padded = malloc(3 * s.width * sizeof *padded);
    int failed = !sums || !wide_values || !padded;
    if (!failed) {
        float *scale = wide_values, *shift = wide_values + s.width;
        for (long i = 0; i < s.width; i++) { /* the first row as an estimate of the mean, against cancellation */
            uint32_t word = (uint32_t)x[i % c] << 16;
            memcpy(shift + i, &word, sizeof word);
        }
#pragma omp parallel for num_threads(s.threads) schedule(static)
        for (long part = 0; part < PARTS; part++)
            moments(s, x + cut(s, part) * s.width, cut(s, part + 1) - cut(s, part), shift, sums + part * 2 * s.width);
        if (s.tail) pad(s, padded, x, x), moments(s, padded, 1, shift, sums + PARTS * 2 * s.width);
        for (long i = 0; i < c; i++) {
            double d = folded(s, sums, i) / rows, var = folded(s, sums + s.width, i) / rows - d * d; /* rounding may leave it < 0 */
            if (var < 0) var = 0;
            double mean = shift[i] + d, inverse = 1 / sqrt(var + eps);
            running_mean[i] = (float)((1 - momentum) * running_mean[i] + momentum * mean);
            running_var[i] = (float)((1 - momentum) * running_var[i] + momentum * var * rows / (rows - 1.0));
            saved[i] = (float)mean;
            saved[c + i] = (float)inverse;
            saved[2 * c + i] = (float)(gamma[i] * inverse);
            saved[3 * c + i] = (float)(beta[i] - mean * gamma[i] * inverse);
        }
        repeat(s, scale, saved + 2 * c);
        repeat(s, shift, saved + 3 * c);
#pragma omp parallel for num_threads(s.threads) schedule(static)
        for (long part = 0; part < PARTS; part++) {
            long at = cut(s, part) * s.width, count = cut(s, part + 1) - cut(s, part);
            write_forward(s, x + at, residual ? residual + at : 0, y + at, count, scale, shift, relu);
        }
        if (s.tail) {
            bf16 *r = padded + s.width, *to = padded + 2 * s.width;
            if (residual) pad(s, r, residual, 0);
            write_forward(s, padded, residual ? r : 0, to, 1, scale, shift, relu);
            memcpy(y + s.rows * s.width, to, s.tail * sizeof *y);
        }
    }
    free(sums), free(wide_values), free(padded);
    return failed;
}

/* ---- backward ---- */

enum { PLAIN, FROM_X, FROM_Y }; /* no ReLU; a ReLU whose sign is that of scale x + shift; one whose sign is that of y */
typedef struct {
    const float *mean, *scale, *shift, *b, *c; /* dx = scale g + b (x - mean) + c */
} Values;

INLINE void reduce(Shape s, const bf16 *dy, const bf16 *x, const bf16 *y, bf16 *g, long rows, Values values, double *sums,
                   int mask) { /* g = dy where the ReLU was open; sums of g and g (x - mean) */
    for (long begin = 0; begin < rows; begin += BLOCK) {
        long end = begin + BLOCK < rows ? begin + BLOCK : rows;
        for (long o = 0; o < s.width; o += STRIP) {
            Floats mean[VECTORS], scale[VECTORS], shift[VECTORS], sum[VECTORS] = {0}, product[VECTORS] = {0};
            EACH mean[v] = floats(values.mean + o + v * LANES);
            EACH scale[v] = floats(values.scale + o + v * LANES), shift[v] = floats(values.shift + o + v * LANES);
            for (long r = begin; r < end; r++) EACH {
                long at = r * s.width + o + v * LANES;
                Floats d = wide(dy + at), f = wide(x + at);
                if (mask == FROM_X) d = unless((Words)(f * scale[v] + shift[v] <= 0), d);
                if (mask == FROM_Y) d = unless((Words)(wide(y + at) <= 0), d), narrow(g + at, d);
                sum[v] += d;
                product[v] += d * (f - mean[v]);
            }
            EACH add_to(sums + o + v * LANES, sum[v]), add_to(sums + s.width + o + v * LANES, product[v]);
        }
    }
}

INLINE void differentiate(Shape s, const bf16 *g, const bf16 *x, bf16 *dx, long rows, Values values, int mask) {
    for (long o = 0; o < s.width; o += STRIP) {
        Floats mean[VECTORS], scale[VECTORS], shift[VECTORS], b[VECTORS], c[VECTORS];
        EACH mean[v] = floats(values.mean + o + v * LANES);
        EACH scale[v] = floats(values.scale + o + v * LANES), shift[v] = floats(values.shift + o + v * LANES);
        EACH b[v] = floats(values.b + o + v * LANES), c[v] = floats(values.c + o + v * LANES);
        for (long r = 0; r < rows; r++) EACH {
            long at = r * s.width + o + v * LANES;
            Floats d = wide(g + at), f = wide(x + at);
            if (mask == FROM_X) d = unless((Words)(f * scale[v] + shift[v] <= 0), d);
            narrow(dx + at, d * scale[v] + (f - mean[v]) * b[v] + c[v]);
        }
    }
}

static void sum_backward(Shape s, const bf16 *dy, const bf16 *x, const bf16 *y, bf16 *g, long rows, Values values, double *sums,
                         int mask) {
    if (mask == PLAIN) reduce(s, dy, x, y, g, rows, values, sums, PLAIN);
    else if (mask == FROM_X) reduce(s, dy, x, y, g, rows, values, sums, FROM_X);
    else reduce(s, dy, x, y, g, rows, values, sums, FROM_Y);
}

static void write_backward(Shape s, const bf16 *g, const bf16 *x, bf16 *dx, long rows, Values values, int mask) {
    if (mask == FROM_X) differentiate(s, g, x, dx, rows, values, FROM_X);
    else differentiate(s, g, x, dx, rows, values, PLAIN);
}

/* Gradients of residua_forward.  `y` and `dresidual` only where both a residual and a ReLU were; without a ReLU the residual's
 * gradient is dy.  Not 0: no memory. */
int residua_backward(const bf16 *dy, const bf16 *x, const bf16 *y, const float *saved, float *dgamma, float *dbeta, bf16 *dx,
                     bf16 *dresidual, long rows, long c, int relu, int threads) {
    Shape s = shape_of(rows, c, threads);
    double *sums = calloc((PARTS + 1) * 2 * s.width, sizeof *sums);
    float *w = malloc((5 * s.width + 2 * c) * sizeof *w);
    bf16 *padded = malloc(5 * s.width * sizeof *padded);
    int failed = !sums || !w || !padded, mask = !relu ? PLAIN : y ? FROM_Y : FROM_X;
    if (!failed) {
        float *b = w + 5 * s.width, *constant = b + c;
        Values values = {w, w + s.width, w + 2 * s.width, w + 3 * s.width, w + 4 * s.width};
        bf16 *last_dy = padded, *last_x = last_dy + s.width, *last_y = last_x + s.width, *last_g = last_y + s.width;
        repeat(s, w, saved), repeat(s, w + s.width, saved + 2 * c), repeat(s, w + 2 * s.width, saved + 3 * c);
#pragma omp parallel for num_threads(s.threads) schedule(static)
        for (long part = 0; part < PARTS; part++) {
            long at = cut(s, part) * s.width, count = cut(s, part + 1) - cut(s, part);
            sum_backward(s, dy + at, x + at, y ? y + at : 0, dresidual ? dresidual + at : 0, count, values,
                         sums + part * 2 * s.width, mask);
        }
        if (s.tail) {
            pad(s, last_dy, dy, 0), pad(s, last_x, x, x);
            if (y) pad(s, last_y, y, 0);
            sum_backward(s, last_dy, last_x, last_y, last_g, 1, values, sums + PARTS * 2 * s.width, mask);
            if (mask == FROM_Y) memcpy(dresidual + s.rows * s.width, last_g, s.tail * sizeof *dx);
        }
        for (long i = 0; i < c; i++) {
            double inverse = saved[c + i], sum = folded(s, sums, i), product = folded(s, sums + s.width, i) * inverse;
            dbeta[i] = (float)sum;
            dgamma[i] = (float)product;
            b[i] = (float)(-saved[2 * c + i] * inverse * product / rows);
            constant[i] = (float)(-saved[2 * c + i] * sum / rows);
        }
        repeat(s, w + 3 * s.width, b), repeat(s, w + 4 * s.width, constant);
        const bf16 *g = mask == FROM_Y ? dresidual : dy;
#pragma omp parallel for num_threads(s.threads) schedule(static)
        for (long part = 0; part < PARTS; part++) {
            long at = cut(s, part) * s.width, count = cut(s, part + 1) - cut(s, part);
            write_backward(s, g + at, x + at, dx + at, count, values, mask);
        }
        if (s.tail) {
            write_backward(s, mask == FROM_Y ? last_g : last_dy, last_x, last_g + s.width, 1, values, mask);
            memcpy(dx + s.rows * s.width, last_g + s.width, s.tail * sizeof *dx);
        }
    }
    free(sums), free(w), free(padded);
    return failed;
}
