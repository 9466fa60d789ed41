// The passes over all rows of a boosting round: the log-loss, and the rows with a high score. Each
// is one loop, where operators of torch would read and write all rows several times.

#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

// GCC takes a comparison for something that may stop the program, and makes no vectors of it.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-trapping-math")
#endif

namespace pauc {

// std::max takes addresses, of which compilers make no vector instructions.
inline double larger(double a, double b) { return a > b ? a : b; }

// Returns exp(-a) to 4e-16 of it; beyond -708 and 708 what it is there, 3e307 and 3e-308. Compilers
// make vector instructions of a loop around this, which they do not of std::exp.
inline double exp_of_minus(double a) {
    constexpr double LOG2_E = 1.4426950408889634, LN2_HIGH = 0.693145751953125,
                     LN2_LOW = 1.42860682030941723e-6;
    // Added and taken away, it rounds to an integer, which its lowest bits hold meanwhile.
    constexpr double ROUND = 6755399441055744.0;  // 1.5 * 2^52
    const double x = larger(-larger(a, -708), -708);
    const double shifted = x * LOG2_E + ROUND, n = shifted - ROUND;
    const double r = (x - n * LN2_HIGH) - n * LN2_LOW;  // within 0.35 of 0
    // The exponential's own series up to r^13 / 13!, which no smaller term would change.
    double sum = 1.0 / 6227020800;
    sum = sum * r + 1.0 / 479001600;
    sum = sum * r + 1.0 / 39916800;
    sum = sum * r + 1.0 / 3628800;
    sum = sum * r + 1.0 / 362880;
    sum = sum * r + 1.0 / 40320;
    sum = sum * r + 1.0 / 5040;
    sum = sum * r + 1.0 / 720;
    sum = sum * r + 1.0 / 120;
    sum = sum * r + 1.0 / 24;
    sum = sum * r + 1.0 / 6;
    sum = sum * r + 0.5;
    sum = (sum * r + 1) * r + 1;
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
    const double steepest = 1 / l.largest_step, factor = l.factor, least = l.least_curvature;
    const double* score = l.score;
    double *gradient = l.gradient, *hessian = l.hessian;
#pragma omp simd
    for (size_t i = 0; i < l.rows; ++i) {
        const double z = exp_of_minus(score[i]), sigmoid = 1 / (1 + z), rest = z * sigmoid;
        const double slope = factor * sigmoid;
        gradient[i] = slope;
        hessian[i] = larger(slope * larger(rest, steepest), least);
    }
    if (!l.weight) return;
#pragma omp simd
    for (size_t i = 0; i < l.rows; ++i) {
        gradient[i] *= l.weight[i];
        hessian[i] *= l.weight[i];
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

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
