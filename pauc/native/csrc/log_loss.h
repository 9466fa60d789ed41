// The passes over all rows of a boosting round: the log-loss, and the rows with a high score. Each
// is one loop, where operators of torch would read and write all rows several times.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pauc {

// Returns exp(-a) for a >= 0, to 2e-16 of it; from 708 on what it is there, 3e-308. Compilers make
// vector instructions of a loop around this, which they do not of std::exp.
inline double exp_of_minus(double a) {
    constexpr double LOG2_E = 1.4426950408889634, LN2_HIGH = 0.693145751953125,
                     LN2_LOW = 1.42860682030941723e-6;
    // Added and taken away, it rounds to an integer, which its lowest bits hold meanwhile.
    constexpr double ROUND = 6755399441055744.0;  // 1.5 * 2^52
    const double x = -(a < 708 ? a : 708);
    const double shifted = x * LOG2_E + ROUND, n = shifted - ROUND;
    const double r = (x - n * LN2_HIGH) - n * LN2_LOW;  // within 0.35 of 0
    double sum = 1.0 / 6227020800;
    constexpr double FACTORS[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
        1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0
    };
    for (double factor : FACTORS) sum = sum * r + factor;
    uint64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 1023) << 52;  // 2^n
    double power;
    std::memcpy(&power, &bits, sizeof power);
    return sum * power;
}

struct LogLoss {
    size_t rows;
    const double *score, *weight;  // weight may be null
    double factor, largest_step, least_curvature;
    double *gradient, *hessian;  // written to
};

// Writes gradient and Hessian of each row, with its lower bound, as if all were negatives.
inline void take_log_loss(const LogLoss& l) {
    const double steepest = 1 / l.largest_step;
#pragma omp simd
    for (size_t i = 0; i < l.rows; ++i) {
        const double z = exp_of_minus(std::fabs(l.score[i])), part = l.factor / (1 + z);
        const bool up = l.score[i] >= 0;
        const double slope = up ? part : part * z;
        const double rest = (up ? z : 1) / (1 + z);  // one minus the sigmoid
        const double bent = slope * (rest > steepest ? rest : steepest);
        const double weight = l.weight ? l.weight[i] : 1;
        l.gradient[i] = weight * slope;
        l.hessian[i] = weight * (bent > l.least_curvature ? bent : l.least_curvature);
    }
}

// Writes the rows whose score is at least `lowest`, ascending, and returns how many. `found` has
// room for all rows.
inline size_t find_rows(const double* score, size_t rows, double lowest, int64_t* found) {
    size_t count = 0;
    for (size_t i = 0; i < rows; ++i) {
        found[count] = static_cast<int64_t>(i);
        count += score[i] >= lowest;
    }
    return count;
}

#if defined(__x86_64__) && defined(__GNUC__)
// Compiled once more for processors with AVX2, as the step is.
__attribute__((target("avx2,fma"), flatten)) inline void take_wide_log_loss(const LogLoss& l) {
    take_log_loss(l);
}

inline void dispatch_log_loss(const LogLoss& l) {
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return take_wide_log_loss(l);
    take_log_loss(l);
}
#else
inline void dispatch_log_loss(const LogLoss& l) { take_log_loss(l); }
#endif

}  // namespace pauc
