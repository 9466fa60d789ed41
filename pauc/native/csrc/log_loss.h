// The passes over all rows of a boosting round: the log-loss, and which rows are marked. Each is
// one loop, where operators of torch would read and write all rows several times.

#pragma once

#include <cstddef>
#include <cstdint>

#include "exponential.h"
#include "wide.h"

namespace pauc {

// std::max takes addresses, of which compilers make no vector instructions.
inline double larger(double a, double b) {
    return a > b ? a : b;
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

// Writes the marked rows, ascending, and returns how many. `found` has room for all rows.
inline size_t find_marked(const bool* marked, size_t rows, int64_t* found) {
    size_t count = 0;
    for (size_t i = 0; i < rows; ++i) {
        found[count] = static_cast<int64_t>(i);
        count += marked[i];
    }
    return count;
}

#ifdef PAUC_AVX2
// Compiled once more for processors with AVX2, as the step is.
__attribute__((target("avx2,fma"), flatten)) inline void take_wide_log_loss(const LogLoss& l) {
    take_log_loss(l);
}

inline void dispatch_log_loss(const LogLoss& l) {
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return take_wide_log_loss(l);
    take_log_loss(l);
}
#else
inline void dispatch_log_loss(const LogLoss& l) {
    take_log_loss(l);
}
#endif

}  // namespace pauc
