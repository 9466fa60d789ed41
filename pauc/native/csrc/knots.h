// Thresholds that move with the scores near them, as pauc/core/edge_gradient.py describes it.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "band.h"
#include "exponential.h"
#include "rows.h"
#include "surrogates.h"

namespace pauc {

// How much a reference row moves a knot, up to a factor: by the logistic density at its distance,
// or at FPR 0 and 1, where the knot is an extreme, by softmax.
template <typename T>
struct Pull {
    T knot, tau;
    T up, down;     // signs: the distance of a score above the knot, and of one below it
    T nearest = 0;  // the smallest distance of a row that shares, so that its own pull is in range
    T damp = 0;     // exp(-nearest) for the density, 0 for a softmax

    Pull(T knot, T tau, bool at_top, bool at_bottom)
        : knot(knot), tau(tau), up(at_top ? -1 : 1), down(at_bottom ? 1 : -1) {}

    T distance(T score) const {
        const T u = (score - knot) / tau;
        return u > 0 ? up * u : down * u;
    }

    T operator()(T score) const {
        const T e = exp_of_minus(distance(score) - nearest), rest = 1 + e * damp;
        return e / (rest * rest);
    }

    void centre(T least) {
        nearest = least;
        damp = up == 1 && down == -1 ? std::exp(-least) : 0;
    }
};

// Returns the sum of the pulls of the scores that share a knot, and centres it; 0 where there are
// none. The nearest of all reference scores is in the band's window.
template <typename T>
double centre_and_add(const Step<T>& s, const Class<T>& c, const Window<T>& window, Pull<T>& pull) {
    T least = std::numeric_limits<T>::infinity();
    auto compare = [&](T score) { least = std::min(least, pull.distance(score)); };
    if (s.live_gradient) {
        walk_batch(s, c, c.hidden, [&](const T* value, Size) {
            for (int j = 0; j < BLOCK; ++j)
                if (value[j] == value[j]) compare(value[j]);
        });
    } else {
        for (T score : window.inside) compare(score);
    }
    if (!std::isfinite(least)) return 0;
    pull.centre(least);
    double sum = 0;
    auto add = [&](const T* value, Size) {
        T part = 0;
#pragma omp simd reduction(+ : part)
        for (int j = 0; j < BLOCK; ++j) part += pull(value[j]);
        sum += part;
    };
    walk_batch(s, c, c.hidden, add);
    if (!s.live_gradient) walk_queue(s, c, c.hidden, add);
    return sum;
}

// Returns the loss's derivative by a knot's threshold, `share` being what rests on the knot.
template <typename T>
double slope_of_knot(const Positives<T>& positives, T knot, T tau, T share) {
    double slope = 0;
    for (size_t i = 0; i < positives.score.size(); ++i) {
        const T soft = sigmoid((positives.score[i] - knot) / tau);
        slope += static_cast<double>(soft * (1 - soft)) * positives.weight[i];
    }
    return slope * share / (positives.total * tau);
}

// Adds the gradient of a class's knots to that of the batch's reference rows.
template <typename T>
void move_knots(
    const Step<T>& s,
    const Class<T>& c,
    const Band<T>& band,
    const Window<T>& window,
    const Positives<T>& positives,
    const std::vector<T>& shares
) {
    for (size_t k = 0; k < shares.size(); ++k) {
        if (shares[k] == 0) continue;
        const double slope = slope_of_knot(positives, band.knots[k], band.tau, shares[k]);
        const bool first = k == 0, last = k + 1 == shares.size();
        Pull<T> pull(band.knots[k], band.tau, first && s.levels[k] == 0, last && s.levels[k] == 1);
        const double sum = centre_and_add(s, c, window, pull);
        if (!(sum > 0)) continue;
        const T factor = static_cast<T>(slope / sum);
        walk_batch(s, c, c.hidden, [&](const T* value, Size first_row) {
            const Size some = std::min<Size>(BLOCK, s.rows - first_row);
            for (Size j = 0; j < some; ++j)
                s.gradient[(first_row + j) * s.classes + c.index] += factor * pull(value[j]);
        });
    }
}

}  // namespace pauc
