// The chains between the matrix products of a training step, one row at a time, forward and backward. kernels.py says what each computes.
// Arithmetic is float32; T is float or bfloat16, the latter as its bits. Plain loops: the compiler turns them into vector instructions.
#include <cstdint>
#include <cstring>

struct bfloat16 { uint16_t high; };

static inline float as_float(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
static inline uint32_t as_bits(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }
static inline float load(float v) { return v; }
static inline float load(bfloat16 v) { return as_float(uint32_t(v.high) << 16); }
static inline void store(float &to, float v) { to = v; }
static inline void store(bfloat16 &to, float v) {  // to the nearest, ties to even
    uint32_t u = as_bits(v);
    to.high = uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// exp to about 2e-7 relative, 0 below -88: the power of two apart, a polynomial for the rest.
static inline float fast_exp(float x) {
    x = x < -88.f ? -88.f : x > 88.f ? 88.f : x;
    float n = __builtin_rintf(x * 1.44269504f), r = x - n * 0.693147181f;
    float p = 1.f + r * (1.f + r * (0.5f + r * (0.166666667f + r * (0.0416666667f + r * (0.00833333333f + r * 0.00138888889f)))));
    return p * as_float(uint32_t(int32_t(n) + 127) << 23);
}

template <class T> static void swiglu(const T *__restrict fused, T *__restrict out, long rows, long width) {
    for (long i = 0; i < rows; ++i, fused += 2 * width, out += width)
        for (long j = 0; j < width; ++j) {
            float gate = load(fused[j]);
            store(out[j], gate / (1.f + fast_exp(-gate)) * load(fused[width + j]));
        }
}

template <class T> static void swiglu_backward(const T *__restrict change, const T *__restrict fused, T *__restrict out, long rows, long width) {
    for (long i = 0; i < rows; ++i, change += width, fused += 2 * width, out += 2 * width)
        for (long j = 0; j < width; ++j) {
            float gate = load(fused[j]), d = load(change[j]);
            float sigmoid = 1.f / (1.f + fast_exp(-gate)), silu = gate * sigmoid;
            store(out[j], d * load(fused[width + j]) * (sigmoid + silu * (1.f - sigmoid)));
            store(out[width + j], d * silu);
        }
}

template <class T> static float inverse_rms(const T *__restrict x, long width, float eps) {
    float sum = 0;
    for (long j = 0; j < width; ++j) sum += load(x[j]) * load(x[j]);
    return 1.f / __builtin_sqrtf(sum / width + eps);
}

// `change` is the gradient of one normed row; that of the weight is added up.
template <class T> static void norm_row_backward(const float *__restrict change, const T *__restrict x, const float *__restrict weight, T *__restrict out, float *__restrict of_weight, long width, float eps) {
    float inverse = inverse_rms(x, width, eps), mean = 0;
    for (long j = 0; j < width; ++j) {
        float t = change[j] * load(x[j]) * inverse;
        of_weight[j] += t;
        mean += t * weight[j];
    }
    mean /= width;
    for (long j = 0; j < width; ++j) store(out[j], (change[j] * weight[j] - load(x[j]) * inverse * mean) * inverse);
}

template <class T> static void norm(const T *__restrict x, const float *__restrict weight, T *__restrict out, long rows, long width, float eps) {
    for (long i = 0; i < rows; ++i, x += width, out += width) {
        float inverse = inverse_rms(x, width, eps);
        for (long j = 0; j < width; ++j) store(out[j], load(x[j]) * inverse * weight[j]);
    }
}

// `row` holds `width` floats.
template <class T> static void norm_backward(const T *__restrict change, const T *__restrict x, const float *weight, T *out, float *of_weight, float *__restrict row, long rows, long width, float eps) {
    for (long i = 0; i < rows; ++i, change += width, x += width, out += width) {
        for (long j = 0; j < width; ++j) row[j] = load(change[j]);
        norm_row_backward(row, x, weight, out, of_weight, width, eps);
    }
}

// Rows of x and `out` are `stride` apart; `heads` heads of each are read and written.
template <class T> static void norm_rotate(const T *__restrict x, const float *__restrict weight, const T *__restrict cos, const T *__restrict sin, T *__restrict out, long rows, long heads, long stride, long width, float eps) {
    long half = width / 2;
    for (long i = 0; i < rows; ++i, x += stride, out += stride, cos += width, sin += width)
        for (long h = 0; h < heads; ++h) {
            const T *__restrict head = x + h * width;
            T *__restrict to = out + h * width;
            float inverse = inverse_rms(head, width, eps);
            for (long j = 0; j < half; ++j) {
                float a = load(head[j]) * inverse * weight[j], b = load(head[half + j]) * inverse * weight[half + j];
                store(to[j], a * load(cos[j]) + b * load(sin[j]));
                store(to[half + j], b * load(cos[half + j]) + a * load(sin[half + j]));
            }
        }
}

// Rows of `change`, x and `out` are `stride` apart; `row` holds `width` floats.
template <class T> static void norm_rotate_backward(const T *__restrict change, const T *__restrict x, const float *weight, const T *__restrict cos, const T *__restrict sin, T *out, float *of_weight, float *__restrict row, long rows, long heads, long stride, long width, float eps) {
    long half = width / 2;
    for (long i = 0; i < rows; ++i, change += stride, x += stride, out += stride, cos += width, sin += width)
        for (long h = 0; h < heads; ++h) {
            const T *__restrict part = change + h * width;
            for (long j = 0; j < half; ++j) {
                float a = load(part[j]), b = load(part[half + j]);
                row[j] = a * load(cos[j]) + b * load(sin[half + j]);
                row[half + j] = b * load(cos[half + j]) + a * load(sin[j]);
            }
            norm_row_backward(row, x + h * width, weight, out + h * width, of_weight, width, eps);
        }
}

// In place over the rows of scores (n, heads, rows, width); the mask's rows are `mask_row` apart and its batches `mask_n`, 0 to repeat. `row` holds `width` floats.
template <class T> static void softmax(T *__restrict scores, const T *mask, float *__restrict row, long n, long heads, long rows, long width, long mask_n, long mask_row) {
    for (long i = 0; i < n * heads * rows; ++i, scores += width) {
        const T *__restrict added = mask + i / (heads * rows) * mask_n + i % rows * mask_row;
        float top = -1e30f, sum = 0;
        if (mask)
            for (long j = 0; j < width; ++j) row[j] = load(scores[j]) + load(added[j]);
        else
            for (long j = 0; j < width; ++j) row[j] = load(scores[j]);
        for (long j = 0; j < width; ++j) top = row[j] > top ? row[j] : top;
        for (long j = 0; j < width; ++j) {
            row[j] = fast_exp(row[j] - top);
            sum += row[j];
        }
        for (long j = 0; j < width; ++j) store(scores[j], row[j] / sum);
    }
}

#define EXPORT(T, NAME) \
    extern "C" void swiglu_##NAME(const T *a, T *o, long r, long w) { swiglu(a, o, r, w); } \
    extern "C" void swiglu_backward_##NAME(const T *d, const T *a, T *o, long r, long w) { swiglu_backward(d, a, o, r, w); } \
    extern "C" void norm_##NAME(const T *x, const float *w, T *o, long r, long n, float e) { norm(x, w, o, r, n, e); } \
    extern "C" void norm_backward_##NAME(const T *d, const T *x, const float *w, T *o, float *g, float *row, long r, long n, float e) { norm_backward(d, x, w, o, g, row, r, n, e); } \
    extern "C" void norm_rotate_##NAME(const T *x, const float *w, const T *c, const T *s, T *o, long r, long h, long stride, long n, float e) { norm_rotate(x, w, c, s, o, r, h, stride, n, e); } \
    extern "C" void norm_rotate_backward_##NAME(const T *d, const T *x, const float *w, const T *c, const T *s, T *o, float *g, float *row, long r, long h, long stride, long n, float e) { norm_rotate_backward(d, x, w, c, s, o, g, row, r, h, stride, n, e); } \
    extern "C" void softmax_##NAME(T *s, const T *m, float *row, long n, long h, long r, long w, long mn, long mr) { softmax(s, m, row, n, h, r, w, mn, mr); }

EXPORT(bfloat16, bfloat16)
EXPORT(float, float32)
