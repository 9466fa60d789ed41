// Sums over all pairs of positives and negatives, at every score, for functions of the margin that
// are a series in z = exp(-|u|) on either side of 0, as the derivatives of all links are
// (pauc/pairs/links.py).
//
// A sweep passes all scores in their order and carries, for each power k, the sum of
// weight * exp(-k * distance) over the scores that it has passed. Every exponent is negative and
// terms of one sign are added, so nothing overflows and nothing cancels; time is linear.

#pragma once

#include <cmath>
#include <cstddef>

#include "wide.h"

namespace pauc {

constexpr size_t DEGREE = 16;

// A function of the margin for margins of one sign.
struct Series {
    double constant, powers[DEGREE];
};

// The functions that are summed: the first and the second derivative of a link, say.
struct Term {
    Series above, below;  // the negative is above the positive, or level with it; below it
};

// Scores in ascending order with their weights, and the sums to be added to at each of them.
struct Ranked {
    size_t count;
    const double *score, *weight;
    double* sums;  // [terms, count]
};

// The sums over the scores on one side that have been passed.
struct Passed {
    double total = 0, power[DEGREE] = {};

    void add(double weight) {
        total += weight;
        for (double& one : power) one += weight;
    }

    void move(const double (&z)[DEGREE]) {
        // Adding and taking away makes 0 of what would become a denormal number, whose arithmetic
        // is a hundred times slower.
        constexpr double TINY = 1e-285;
        for (size_t k = 0; k < DEGREE; ++k) power[k] = (power[k] * z[k] + TINY) - TINY;
    }

    double sum(const Series& series) const {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t k = 0; k < DEGREE; ++k) sum += series.powers[k] * power[k];
        return sum + series.constant * total;
    }
};

// Adds, at each score, the sums over those of the other side that are above it (`down`), or below.
// Of scores that are level, a negative counts as above the positive.
template <bool down>
void sweep(const Ranked& positives, const Ranked& negatives, const Term* terms, size_t count) {
    Passed of_positives, of_negatives;
    size_t i = 0, j = 0;  // how many have been passed
    double here = 0;
    auto at = [](const Ranked& side, size_t k) { return down ? side.count - 1 - k : k; };
    while (i < positives.count || j < negatives.count) {
        bool positive = j == negatives.count;
        if (i < positives.count && j < negatives.count) {
            const double x = positives.score[at(positives, i)];
            const double y = negatives.score[at(negatives, j)];
            positive = down ? x > y : x <= y;
        }
        const Ranked& side = positive ? positives : negatives;
        const size_t k = at(side, positive ? i : j);
        if (i + j > 0 && side.score[k] != here) {
            double z[DEGREE];
            z[0] = std::exp(-std::abs(side.score[k] - here));
            for (size_t p = 1; p < DEGREE; ++p) z[p] = z[(p - 1) / 2] * z[p / 2];
            of_positives.move(z);
            of_negatives.move(z);
        }
        here = side.score[k];
        const Passed& others = positive ? of_negatives : of_positives;
        for (size_t t = 0; t < count; ++t) {
            // A positive that comes down has passed negatives above it, and a negative that comes
            // down has passed positives that it is below.
            const Series& series = positive == down ? terms[t].above : terms[t].below;
            side.sums[t * side.count + k] += others.sum(series);
        }
        (positive ? of_positives : of_negatives).add(side.weight[k]);
        ++(positive ? i : j);
    }
}

inline void sweep_ways(
    const Ranked& positives, const Ranked& negatives, const Term* terms, size_t count
) {
    sweep<true>(positives, negatives, terms, count);
    sweep<false>(positives, negatives, terms, count);
}

#ifdef PAUC_AVX2
// Compiled once more for processors with AVX2, as the step is.
__attribute__((target("avx2,fma"), flatten)) inline void sweep_wide(
    const Ranked& positives, const Ranked& negatives, const Term* terms, size_t count
) {
    sweep_ways(positives, negatives, terms, count);
}
#endif

// Adds all sums, those over scores above and those over scores below.
inline void sweep_both(
    const Ranked& positives, const Ranked& negatives, const Term* terms, size_t count
) {
#ifdef PAUC_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return sweep_wide(positives, negatives, terms, count);
#endif
    sweep_ways(positives, negatives, terms, count);
}

}  // namespace pauc
